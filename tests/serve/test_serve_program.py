"""`ussfast serve` as a program: killed, asked to end, started again on what it left."""

import signal
import subprocess
import sys

import httpx
import pytest
from live_server import Program, alike, long, problem, until, wav

from ussfast import Separator
from ussfast.errors import InputError
from ussfast.serve.jobs.records import Records
from ussfast.serve.running import listening
from ussfast.serve.store import Store

SECONDS = 100.0


@pytest.fixture
def start(tmp_path, model):
    made = []

    def started(*options, **variables):
        made.append(Program(tmp_path, model, *options, nice="0", **variables))
        return made[-1]

    yield started
    for program in made:
        program.close()


def stems(program, id):
    job = program.over(id)
    assert job["status"] == "done", job
    return {one["label"]: program.client.get(one["url"]).content for one in job["outputs"]}


def test_jobs_outlive_a_server_that_is_killed(start, model, tmp_path):
    first = start()
    audio, short = wav(SECONDS), wav(2.0, seed=1)
    jobs = [first.later(audio, prompts="speech,sfx"), first.later(short, prompts="speech")]
    first.running(jobs[0]["id"])
    half = first.data / "tmp" / "upload-half"
    half.write_bytes(b"of an upload")
    assert first.signal(signal.SIGKILL) == -signal.SIGKILL
    assert not (first.data / "jobs" / jobs[0]["id"] / "outputs").exists()
    second = start()
    assert not half.exists()
    for job, given, prompts in zip(jobs, (audio, short), (("speech", "sfx"), ("speech",)), strict=True):
        (tmp_path / "given.wav").write_bytes(given)
        written = Separator(model, device="cpu").separate_file(
            tmp_path / "given.wav", tmp_path / job["id"], prompts=prompts
        )
        found = stems(second, job["id"])
        assert found.keys() == {path.stem for path in written}
        assert all(alike(found[path.stem], path.read_bytes()) for path in written)
    done = second.later(audio, prompts="speech")
    second.running(done["id"])
    assert second.signal(signal.SIGTERM) == 0  # what runs is done first
    assert [job.status for job in kept(second.data)] == ["done"] * 3


def kept(data):
    """Jobs as a server has left them, the oldest first."""
    store = Store(data)
    try:
        return Records(store).newest(10)[::-1]
    finally:
        store.close()


def test_what_a_server_cannot_end_in_time_is_for_the_next(start):
    server = start(drain_s="2")
    job, waiting = server.later(long(), prompts="speech"), server.later(prompts="speech")
    server.running(job["id"])
    with pytest.raises(httpx.HTTPError), httpx.Client(base_url=server.client.base_url, timeout=1) as caller:
        caller.post("/v1/audio/separations", files={"file": wav()}, data={"prompts": "speech"})
    attached = server.client.get("/v1/jobs?limit=1").json()[0]["id"]
    until(lambda: server.job(attached)["status"] == "cancelled")
    server.process.send_signal(signal.SIGINT)
    until(lambda: server.client.get("/ready").status_code == 503)
    assert server.client.get("/ready").json()["reasons"] == {"server": "draining"}
    answer = server.separate(prompts="speech")
    assert "about to end" in problem(answer, 503) and answer.headers["retry-after"] == "5"
    assert server.process.wait(60) == 0
    found = {job.id: job for job in kept(server.data)}
    assert found[job["id"]].status == found[waiting["id"]].status == "queued" and found[job["id"]].starts == 0
    assert not (server.data / "jobs" / job["id"] / "work").exists()


def test_one_server_to_a_folder(tmp_path):
    first = Store(tmp_path)
    with pytest.raises(InputError, match="another server .process [0-9]+. has this data folder"):
        Store(tmp_path)
    first.close()
    Store(tmp_path).close()


def test_a_second_server_is_refused_in_one_line(model, tmp_path):
    first = Store(tmp_path / "data")
    found = serve("--data", str(tmp_path / "data"), "-m", str(model), "--port", "0")
    assert found.returncode == 2 and "another server" in found.stderr
    assert len(found.stderr.strip().splitlines()) == 1
    first.close()


def serve(*options):
    command = [sys.executable, "-m", "ussfast", "serve", *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_what_cannot_be_is_one_line_and_code_2(tmp_path):
    with listening("127.0.0.1", 0)[0] as taken:
        port = taken.getsockname()[1]
        wrong = {
            ("--host", "0.0.0.0"): "without a token",
            ("--port", str(port)): "cannot listen there: Address already in use",
            ("--port", "0", "-m", str(tmp_path / "nothing")): "nothing",
        }
        for options, told in wrong.items():
            found = serve("--data", str(tmp_path / "data"), *options)
            assert found.returncode == 2 and told in found.stderr, found.stderr
            assert len(found.stderr.strip().splitlines()) == 1


def test_addresses():
    for host in ("127.0.0.1", "localhost"):
        sockets = listening(host, 0)
        assert len({one.getsockname()[1] for one in sockets}) == 1
        for one in sockets:
            one.close()
    with pytest.raises(InputError, match="cannot listen there"):
        listening("no.such.host.invalid", 0)
