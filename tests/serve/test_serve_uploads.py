"""What callers may send: files of all kinds and names, forms that are none, and what is written of it."""

import http.client
import io
import socket
import struct
import threading

import httpx
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from live_server import everything, problem, until, wav

from ussfast.serve.jobs.accept import preferred
from ussfast.serve.jobs.space import used

BOUNDARY = b"wall"


@pytest.fixture(autouse=True)
def _nothing_elsewhere(live):
    """Nothing is written outside of the data folder, and uploads do not stay."""
    before = everything(live.folder)
    yield
    assert everything(live.folder) == before
    until(lambda: not list((live.data / "tmp").iterdir()))


def part(headers, body):
    return b"--" + BOUNDARY + b"\r\n" + headers + b"\r\n\r\n" + body + b"\r\n"


def post(live, body, path="/v1/audio/separations", kind=b"multipart/form-data; boundary=" + BOUNDARY):
    return live.client.post(path, content=body, headers={"Content-Type": kind})


def named(filename, data=None, prompts=b"speech"):
    """A form whose file has a name of any bytes."""
    disposition = b'Content-Disposition: form-data; name="file"; filename="' + filename + b'"'
    prompt = part(b'Content-Disposition: form-data; name="prompts"', prompts)
    return part(disposition, wav() if data is None else data) + prompt + b"--" + BOUNDARY + b"--\r\n"


@pytest.mark.parametrize(
    "filename, shown",
    [
        (b"../../../../evil.wav", "evil.wav"),
        (b"/etc/passwd.wav", "passwd.wav"),
        (b"..\\..\\windows.wav", "windows.wav"),
        (b"..", ".."),
        (b"a\0b.wav", "ab.wav"),
        (b"line\x1b[31m.wav", "line[31m.wav"),
        ("Größe 🎵.wav".encode(), "Größe 🎵.wav"),
        (b"\xff\xfe.wav", "\ufffd\ufffd.wav"),
        (b"x" * 3000 + b".wav", "x" * 196 + ".wav"),
        (b"", "audio"),
        (b"noise.exe", "noise.exe"),
        (b"$(reboot);'.wav", "$(reboot);'.wav"),
    ],
)
def test_names_of_files_are_shown_and_nothing_more(live, filename, shown):
    answer = post(live, named(filename))
    assert answer.status_code == 200, answer.text
    job = answer.json()
    assert job["input"]["name"] == shown
    files = sorted(path.name for path in (live.data / "jobs" / job["id"]).iterdir())
    assert files in (["input.wav", "outputs"], ["input", "outputs"])
    given = live.client.get(f"/v1/jobs/{job['id']}/input")
    assert given.status_code == 200 and given.content == wav()
    assert live.client.get(f"/v1/jobs/{job['id']}/archive").status_code == 200


def silence(seconds, rate=8000):
    """A small FLAC with much in it."""
    held = io.BytesIO()
    with soundfile.SoundFile(held, "w", rate, 1, format="FLAC", subtype="PCM_16") as file:
        for _ in range(int(seconds / 100)):
            file.write(np.zeros(100 * rate, np.int16))
    return held.getvalue()


def without_length(flac):
    """The same FLAC, whose header does not say how many samples it has."""
    at = 4 + 4 + 10  # of the 36 bits after rate, channels and depth
    packed = struct.unpack(">Q", flac[at : at + 8])[0] >> 36 << 36
    return flac[:at] + struct.pack(">Q", packed) + flac[at + 8 :]


def test_hours_of_silence_in_a_small_file(live, monkeypatch):
    monkeypatch.setattr(live.settings, "max_audio_s", 60.0)
    bomb = silence(7200)
    assert len(bomb) < 1 << 20
    assert "7200.0 s" in problem(live.separate(bomb, "b.flac", prompts="speech"), 422)
    hidden = without_length(bomb)
    answer = live.separate(hidden, "b.flac", prompts="speech")
    assert problem(answer, 422) == "b.flac: there is more audio in it than is taken here, 60 s"
    job = live.client.get("/v1/jobs?limit=1").json()[0]
    assert job["status"] == "failed" and job["error"]["status"] == 422 and job["input"]["seconds"] is None
    assert sorted(path.name for path in (live.data / "jobs" / job["id"]).iterdir()) == ["input.flac"]
    clip = live.client.post("/v1/prompts", files=[("clips", ("c.flac", hidden))], data={"name": "long"})
    told = live.over(clip.json()["id"])
    assert told["status"] == "failed" and told["error"]["detail"].startswith("c.flac: there is more audio")


@pytest.mark.parametrize(
    "data, name, status",
    [
        (b"", "a.wav", 422),
        (b"just some text", "a.wav", 415),
        (b"RIFF\xff\xff\xff\xffWAVEfmt ", "a.wav", 415),
        (b"\x7fELF" + bytes(2000), "a.mp3", 415),
        (b"<html><script>alert(1)</script></html>", "a.html", 415),
        (wav()[:1000], "cut.wav", 422),
        (wav(channels=65, seconds=0.1), "many.wav", 422),
    ],
)
def test_what_is_not_audio(live, data, name, status):
    before = live.client.get("/v1/jobs?limit=1").json()
    detail = problem(live.separate(data, name, prompts="speech"), status)
    assert detail.startswith(name) and live.client.get("/v1/jobs?limit=1").json() == before


@pytest.mark.parametrize(
    "fields, status, told",
    [
        ({}, 400, "no prompts given"),
        ({"prompts": "spech"}, 400, "did you mean speech"),
        ({"prompts": "speech", "stems": "sfx"}, 400, "no stem 'sfx'"),
        ({"prompts": "speech", "residual": "perhaps"}, 400, "residual must be true or false"),
        ({"prompts": "speech", "format": "exe"}, 400, "format must be one of"),
        ({"prompts": "speech", "format": "flac", "bit_depth": "32"}, 400, "bit_depth"),
        ({"prompts": "speech", "bit_depth": "many"}, 400, "bit_depth must be"),
        ({"prompts": "speech", "format": ["wav", "flac"]}, 400, "format was given 2 times"),
        ({"prompts": "speech", "promts": "sfx"}, 400, "no value 'promts'"),
        ({"prompts": "x" * 20_000}, 413, "10000 bytes"),
        ({"prompts": ["speech"] * 300}, 400, "200 parts"),
    ],
)
def test_wrong_fields(live, fields, status, told):
    assert told in problem(live.separate(**fields), status)


def test_forms_that_are_none(live):
    whole, path = named(b"a.wav"), "/v1/audio/separations"
    assert "file is missing" in problem(live.client.post(path, files={"prompts": (None, "speech")}), 400)
    assert "multipart" in problem(live.client.post(path, json={"file": 1}), 415)
    assert "multipart" in problem(live.client.post(path), 415)
    assert "boundary" in problem(post(live, whole, kind=b"multipart/form-data"), 400)
    assert problem(post(live, whole, kind=b"multipart/form-data; boundary=" + b"x" * 5000), 400)
    assert "cut off" in problem(post(live, whole[:-10]), 400)
    assert problem(post(live, b"rubbish"), 400) and problem(post(live, b""), 400)
    assert "no name" in problem(post(live, part(b"X: y", b"z") + b"--wall--\r\n"), 400)
    assert "no file 'other'" in problem(live.client.post("/v1/audio/separations", files={"other": wav()}), 400)
    two = [("file", ("a.wav", wav())), ("file", ("b.wav", wav()))]
    assert "1 at most" in problem(live.client.post("/v1/audio/separations", files=two), 400)
    assert "UTF-8" in problem(post(live, named(b"a.wav", prompts=b"\xff")), 400)
    assert "no value 'file'" in problem(live.client.post(path, files={"file": (None, "text")}), 400)
    assert problem(live.client.put(path), 405)


def pieces(size):
    """A form that goes on and on."""
    yield named(b"a.wav")[:400]
    for _ in range(size // 65536):
        yield bytes(65536)


def test_bodies_that_are_too_large(live, monkeypatch):
    monkeypatch.setattr(live.settings, "max_body", 1 << 20)
    answer = live.separate(wav(200.0), prompts="speech")  # said in its header
    assert "1048576 bytes" in problem(answer, 413)
    kind = {"Content-Type": b"multipart/form-data; boundary=" + BOUNDARY}
    answer = live.client.post("/v1/audio/separations", content=pieces(2 << 20), headers=kind)  # not said
    assert "1048576 bytes" in problem(answer, 413)
    wrong = live.client.post("/v1/audio/separations", content=b"x" * (2 << 20))  # refused before it is read
    assert wrong.status_code in (413, 415)
    monkeypatch.undo()
    assert live.separate(prompts="speech").status_code == 200


def test_a_header_of_length_that_lies(live):
    for said in ("9" * 30, "5000000000"):
        connection = http.client.HTTPConnection("127.0.0.1", int(live.url.rpartition(":")[2]), timeout=60)
        connection.putrequest("POST", "/v1/audio/separations")
        connection.putheader("Content-Type", "multipart/form-data; boundary=wall")
        connection.putheader("Content-Length", said)
        connection.endheaders()
        assert connection.getresponse().status in (400, 413)
        connection.close()


def test_an_upload_that_stops(live):
    before = live.client.get("/v1/jobs?limit=1").json()
    host, port = live.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as caller:
        head = f"POST /v1/audio/separations HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 9000000\r\n"
        head += "Content-Type: multipart/form-data; boundary=wall\r\n\r\n"
        caller.sendall(head.encode() + named(b"a.wav", wav(500.0))[:3_000_000])
        until(lambda: list((live.data / "tmp").iterdir()))
    until(lambda: not list((live.data / "tmp").iterdir()))
    assert live.client.get("/v1/jobs?limit=1").json() == before


def test_a_full_data_folder(live, monkeypatch):
    space = live.server.jobs.space
    monkeypatch.setattr(space, "_most", used(live.data) + 200_000)
    monkeypatch.setattr(space, "_counted", -float("inf"))
    assert "full" in problem(live.separate(wav(60.0), prompts="speech"), 507)  # the upload itself
    small = io.BytesIO()
    soundfile.write(small, np.zeros(8000 * 60, np.float32), 8000, format="FLAC")
    assert "full" in problem(live.separate(small.getvalue(), "a.flac", prompts="speech"), 507)  # its stems
    hidden = live.separate(without_length(silence(700)), "a.flac", prompts="speech")
    assert "full" in problem(hidden, 507)
    monkeypatch.undo()
    monkeypatch.setattr(space, "_counted", -float("inf"))
    assert live.separate(prompts="speech").status_code == 200


def test_many_at_once(live):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(live.separate(prompts="speech"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 8
    assert len({answer.json()["id"] for answer in answers}) == 8


CALLERS = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
FORM_DATA = b"Content-Disposition: form-data"
HEADER = st.sampled_from(
    [FORM_DATA + b'; name="%s"' % name for name in (b"file", b"prompts", b"format", b"clips", b"name", b"")]
    + [FORM_DATA + b'; name="%s"; filename="../b.wav"' % name for name in (b"file", b"clips")]
    + [FORM_DATA, b"Content-Type: audio/wav", b"", b":", b"\xff: \xfe"]
)
BODY = st.one_of(st.binary(max_size=300), st.sampled_from([b"speech", b"tune", b"true", wav(0.2), wav(0.2)[:200]]))
FORM = st.lists(st.tuples(st.lists(HEADER, max_size=3), BODY), max_size=4)


@CALLERS
@given(
    form=FORM,
    cut=st.integers(0, 40),
    path=st.sampled_from(["/v1/audio/separations", "/v1/prompts"]),
    extra=st.binary(max_size=20),
)
def test_no_form_is_a_fault_of_the_server(live, form, cut, path, extra):
    body = b"".join(part(b"\r\n".join(headers), data) for headers, data in form) + b"--wall--\r\n" + extra
    answer = live.client.post(
        path, content=body[: len(body) - cut] if cut < len(body) else body,
        headers={"Content-Type": b"multipart/form-data; boundary=" + BOUNDARY, "Prefer": "respond-async"},
    )  # fmt: skip
    assert answer.status_code in (202, 400, 409, 413, 415, 422), answer.text
    if answer.status_code == 202:
        live.client.delete(answer.headers["location"])
    else:
        problem(answer, answer.status_code)


@CALLERS
@given(
    base=st.sampled_from(["/v1/jobs/", "/v1/prompts/", "/page/", "/"]),
    path=st.text(max_size=40),
    method=st.sampled_from(["GET", "POST", "DELETE", "PUT", "HEAD"]),
)
def test_no_path_is_a_fault_of_the_server(live, base, path, method):
    try:
        request = live.client.build_request(method, base + path)
    except (httpx.InvalidURL, UnicodeEncodeError):
        return
    answer = live.client.send(request)
    assert answer.status_code < 500 and "Traceback" not in answer.text


@pytest.mark.parametrize(
    "accept, kind",
    [
        (None, "application/json"),
        ("*/*", "application/json"),
        ("audio/*", "audio/wav"),
        ("audio/*;q=0.1, application/zip", "application/zip"),
        ("application/*", "application/json"),
        ("*/*;q=0.1, AUDIO/wav", "audio/wav"),
        ("application/json;q=0, */*", "application/zip"),
        ("text/html", None),
        ("audio/wav;q=nonsense", None),
        (",;,", None),
        ("", "application/json"),
    ],
)
def test_accept(accept, kind):
    assert preferred(accept, ["application/json", "application/zip", "audio/wav"]) == kind
