"""Prompts that callers make of clips."""

from urllib.parse import quote

import pytest
from live_server import events, long, problem, wav

from ussfast import Separator
from ussfast.prompts.files import read_bank
from ussfast.serve.prompts.library import Library


def make(live, name, *clips, **fields):
    files = [("clips", (f"clip{i}.wav", clip)) for i, clip in enumerate(clips)]
    return live.client.post("/v1/prompts", files=files, data={"name": name} | fields)


@pytest.mark.parametrize("name", ["dog", "my dog/é", "../../etc/passwd", "a,b", "file", "x" * 100])
def test_a_prompt_of_clips(live, name, tmp_path):
    answer = make(live, name, wav(), wav(seed=1))
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["kind"] == "enroll" and job["prompt"] == name and job["input"] is None
    assert events(live.client, job["id"])[-1][0] == "done"
    url = f"/v1/prompts/{quote(name, safe='')}"
    told = live.client.get(url).json()
    assert told["name"] == name and told["kind"] == "enrolled" and (told["clips"], told["seconds"]) == (2, 2.0)
    assert told in live.client.get("/v1/prompts").json() and name in live.client.get("/v1/model").json()["prompts"]
    file = live.client.get(f"{url}/file")
    (tmp_path / "bank").write_bytes(file.content)
    assert [prompt.name for prompt in read_bank(tmp_path / "bank").prompts] == [name]
    stems = live.separate(prompts=[name, "speech"]).json()["outputs"]
    assert [stem["label"] for stem in stems] == [name, "speech"]
    assert live.client.get(stems[0]["url"]).status_code == 200
    problem(live.client.get(f"/v1/jobs/{job['id']}/input"), 404)
    problem(live.client.get(f"/v1/jobs/{job['id']}/archive"), 404)
    assert live.client.delete(url).status_code == 204
    problem(live.client.get(url), 404)
    problem(live.client.get(f"{url}/file"), 404)
    assert "unknown prompt" in problem(live.separate(prompts=[name]), 400)


def test_a_prompt_is_that_which_a_separator_makes(live, model, tmp_path):
    make(live, "cat", wav(seed=3))
    live.over(live.client.get("/v1/jobs?limit=1").json()[0]["id"])
    (tmp_path / "clip.wav").write_bytes(wav(seed=3))
    separator = Separator(model, device="cpu")
    prompt = separator.enroll("cat", [tmp_path / "clip.wav"])
    assert (live.server.separator.prompts["cat"].vector == prompt.vector).all()
    (tmp_path / "a.wav").write_bytes(wav())
    wanted = separator.separate_file(tmp_path / "a.wav", tmp_path, prompts="cat")[0].read_bytes()
    stem = live.separate(prompts="cat", headers={"Accept": "audio/wav"})
    assert stem.content == wanted


def test_streams_are_told_of_a_new_prompt_and_jobs_keep_the_old_one(live, monkeypatch):
    class Streams:
        told = []

        def swap(self, prompt):
            self.told.append((prompt.name, prompt.vector))

    monkeypatch.setitem(live.server.parts, "streams", Streams())
    live.over(make(live, "bird", wav(seed=4)).json()["id"])
    before = live.separate(prompts="bird", headers={"Accept": "audio/wav"}).content
    running = live.later(long(), prompts="speech")
    renewed, asked = make(live, "bird", wav(seed=5)).json(), live.later(prompts="bird")
    live.client.post(f"/v1/jobs/{running['id']}/cancel")
    assert live.over(renewed["id"])["status"] == live.over(asked["id"])["status"] == "done"
    assert live.client.get(f"/v1/jobs/{asked['id']}/stems/bird").content == before  # as it was when it was asked for
    assert live.separate(prompts="bird", headers={"Accept": "audio/wav"}).content != before
    assert [name for name, _ in Streams.told] == ["bird", "bird"]
    assert not (Streams.told[0][1] == Streams.told[1][1]).all()
    gone = live.later(wav(30.0), prompts="bird")
    assert live.client.delete("/v1/prompts/bird").status_code == 204
    assert live.over(gone["id"])["status"] == "done"


def test_tuning(live):
    job = make(live, "tuned one", wav(3.0), wav(3.0, seed=1), tune="true", minutes="0.02").json()
    told = events(live.client, job["id"])
    assert told[-1][0] == "done" and job["kind"] == "tune"
    assert live.client.get("/v1/prompts/tuned one").json()["kind"] in ("tuned", "enrolled")
    job = make(live, "long", wav(3.0), tune="true", minutes="30").json()
    assert "held-out SDR" in live.running(job["id"])["progress"]["message"]
    live.client.post(f"/v1/jobs/{job['id']}/cancel")
    assert live.over(job["id"])["status"] == "cancelled"
    problem(live.client.get("/v1/prompts/long"), 404)


@pytest.mark.parametrize(
    "name, clips, fields, status, told",
    [
        ("speech", 1, {}, 409, "prompt of the model itself"),
        ("residual", 1, {}, 400, "is what no stem took"),
        ("", 1, {}, 400, "characters that can be printed"),
        ("a\nb", 1, {}, 400, "characters that can be printed"),
        ("x" * 101, 1, {}, 400, "too long"),
        ("dog", 0, {}, 400, "clips are missing"),
        ("dog", 33, {}, 400, "32 at most"),
        ("dog", 1, {"minutes": "1"}, 400, "minutes are of tuning"),
        ("dog", 1, {"tune": "true", "minutes": "nan"}, 400, "minutes must be a number from 0.01 to 60"),
        ("dog", 1, {"tune": "true", "minutes": "1e9"}, 400, "minutes must be"),
        ("dog", 1, {"tune": "maybe"}, 400, "tune must be true or false"),
    ],
)
def test_wrong_prompts(live, name, clips, fields, status, told):
    answer = make(live, name, *[wav(0.2)] * clips, **fields)
    if not clips:
        files = {key: (None, value) for key, value in ({"name": name} | fields).items()}
        answer = live.client.post("/v1/prompts", files=files)
    assert told in problem(answer, status)


def test_clips_that_give_no_prompt(live, monkeypatch):
    assert problem(make(live, "dog", b"text"), 415).startswith("clip0.wav: ")
    monkeypatch.setattr(live.settings, "max_clip_s", 2.0)
    assert "clip0.wav: its 3.0 s" in problem(make(live, "dog", wav(3.0)), 422)
    silent = live.over(make(live, "dog", wav(0.05)).json()["id"])
    assert silent["status"] == "failed" and silent["error"]["status"] == 400
    assert silent["error"]["detail"].startswith("clip0.wav: 0.050 s are too short")


def test_class_prompts_stay(live):
    told = live.client.get("/v1/prompts/speech").json()
    assert told == {"name": "speech", "kind": "class", "clips": 0, "seconds": 0.0, "created": None}
    assert "class prompt" in problem(live.client.delete("/v1/prompts/speech"), 409)
    problem(live.client.get("/v1/prompts/speech/file"), 404)
    assert live.separate(prompts="speech").status_code == 200


def test_prompts_are_there_after_a_restart(live):
    live.over(make(live, "kept", wav(seed=6)).json()["id"])
    separator = live.server.separator
    vector = separator.prompts["kept"].vector
    separator.prompts.remove("kept")
    (live.data / "prompts" / "0-not-one.safetensors").write_bytes(b"rubbish")
    Library(live.server)._load()
    assert (separator.prompts["kept"].vector == vector).all()
    (live.data / "prompts" / "0-not-one.safetensors").unlink()
