"""Jobs of a running server: what comes out, in which form, and what is known of them meanwhile."""

import io
import os
import signal
import zipfile

import numpy as np
import pytest
import soundfile
from live_server import alike, events, long, problem, until, wav

from ussfast import Separator

SOME_S = 60.0  # of audio: the worker tells of its progress more than once


@pytest.fixture(scope="module")
def expected(model, tmp_path_factory):
    """Bytes of the stems that separate_file makes of the usual audio."""
    folder = tmp_path_factory.mktemp("expected")
    (folder / "a.wav").write_bytes(wav())
    written = Separator(model, device="cpu").separate_file(
        folder / "a.wav", folder, prompts=("speech", "sfx"), residual=True
    )
    return {path.stem: path.read_bytes() for path in written}


def test_a_separation_answers_with_what_separate_file_makes(live, expected):
    answer = live.separate(prompts="speech,sfx", residual="true")
    assert answer.status_code == 200
    job = answer.json()
    assert job["status"] == "done" and job["kind"] == "separation" and job["prompts"] == ["speech", "sfx"]
    assert job["input"] == {"name": "a.wav", "seconds": 1.0, "sample_rate": 8000, "channels": 2}
    assert job["created"] <= job["started"] <= job["finished"] < job["expires"]
    assert job["progress"] == {"done_s": 1.0, "total_s": 1.0, "message": None}
    assert [one["label"] for one in job["outputs"]] == ["speech", "sfx", "residual"]
    for one in job["outputs"]:
        stem = live.client.get(one["url"])
        assert stem.headers["content-type"] == one["media_type"] == "audio/wav"
        assert stem.headers["x-content-type-options"] == "nosniff"
        assert len(stem.content) == one["bytes"] and alike(stem.content, expected[one["label"]])
    given = live.client.get(f"/v1/jobs/{job['id']}/input")
    assert given.content == wav() and given.headers["content-type"] == "application/octet-stream"
    assert 'filename="a.wav"' in given.headers["content-disposition"]


def test_archive_and_ranges(live, expected):
    id = live.separate(prompts=["speech", "sfx"]).json()["id"]
    answer = live.client.get(f"/v1/jobs/{id}/archive")
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None and archive.namelist() == ["speech.wav", "sfx.wav"]
        sfx = archive.read("sfx.wav")
        assert alike(sfx, expected["sfx"])
    part = live.client.get(f"/v1/jobs/{id}/stems/sfx", headers={"Range": "bytes=100-199"})
    assert part.status_code == 206 and part.content == sfx[100:200]
    assert part.headers["content-range"] == f"bytes 100-199/{len(sfx)}"
    beyond = live.client.get(f"/v1/jobs/{id}/stems/sfx", headers={"Range": "bytes=99999999-"})
    assert beyond.status_code == 416


def test_what_is_answered_is_what_is_asked_for(live, expected):
    two, one = {"prompts": "speech,sfx"}, {"prompts": "speech,sfx", "stems": "sfx"}
    zipped = live.separate(headers={"Accept": "application/zip"}, **two)
    assert zipfile.ZipFile(io.BytesIO(zipped.content)).namelist() == ["speech.wav", "sfx.wav"]
    audio = live.separate(headers={"Accept": "audio/*"}, **one)
    assert audio.headers["content-type"] == "audio/wav" and alike(audio.content, expected["sfx"])
    several = {"Accept": "text/html, audio/flac;q=0.9, application/json;q=0.1"}
    flac = live.separate(headers=several, format="flac", **one)
    assert flac.headers["content-type"] == "audio/flac"
    samples, rate = soundfile.read(io.BytesIO(flac.content), dtype="float32")
    wanted, _ = soundfile.read(io.BytesIO(expected["sfx"]), dtype="float32")
    assert rate == 8000 and np.abs(samples - wanted).max() < 1e-6
    for headers in ({"Accept": "*/*"}, {"Accept": "application/json, audio/*;q=0.5"}, {"Accept": "application/*"}):
        assert live.separate(headers=headers, **one).json()["status"] == "done"
    before = len(live.client.get("/v1/jobs").json())
    assert "exactly one stem" in problem(live.separate(headers={"Accept": "audio/*"}, **two), 406)
    assert problem(live.separate(headers={"Accept": "audio/flac"}, **one), 406)
    assert problem(live.separate(headers={"Accept": "text/html"}, **one), 406)
    assert len(live.client.get("/v1/jobs").json()) == before


@pytest.mark.parametrize("format", ["wav", "flac", "ogg", "mp3", "opus"])
def test_formats(live, format):
    job = live.separate(prompts="speech", format=format).json()
    url = job["outputs"][0]["url"]
    info = soundfile.info(io.BytesIO(live.client.get(url).content))
    assert info.channels == 2 and abs(info.duration - 1) < 0.05


def test_a_job_in_the_background_tells_of_itself(live):
    answer = live.separate(wav(SOME_S), headers={"Prefer": "respond-async"}, prompts="speech")
    job = answer.json()
    assert answer.status_code == 202 and answer.headers["location"] == f"/v1/jobs/{job['id']}"
    assert job["status"] == "queued" and job["finished"] is None and not job["outputs"]
    told = events(live.client, job["id"])
    assert [name for name, _ in told[:-1]] == ["progress"] * (len(told) - 1) and told[-1][0] == "done"
    states = [state["status"] for _, state in told]
    assert states == sorted(states, key=["queued", "running", "done"].index) and "running" in states
    done = [state["progress"]["done_s"] for _, state in told]
    assert done == sorted(done) and len(set(done)) > 2 and done[-1] == SOME_S
    assert events(live.client, job["id"]) == told[-1:]
    assert live.client.get("/v1/jobs").json()[0]["id"] == job["id"]
    assert len(live.client.get("/v1/jobs?limit=1").json()) == 1
    assert "limit" in problem(live.client.get("/v1/jobs?limit=0"), 400)


def test_cancelling_what_runs_and_what_waits(live):
    first, second = live.later(long(), prompts="speech"), live.later(prompts="speech")
    live.running(first["id"])
    assert problem(live.client.get(f"/v1/jobs/{first['id']}/stems/speech"), 409)
    assert live.client.post(f"/v1/jobs/{second['id']}/cancel").json()["status"] == "cancelled"
    assert live.client.post(f"/v1/jobs/{first['id']}/cancel").status_code == 200
    told = events(live.client, first["id"])
    assert told[-1][0] == "cancelled" and not told[-1][1]["outputs"]
    assert live.client.post(f"/v1/jobs/{first['id']}/cancel").json()["status"] == "cancelled"
    assert not (live.data / "jobs" / first["id"] / "work").exists()
    process = live.worker()
    assert live.separate(prompts="speech").json()["status"] == "done" and live.worker().pid == process.pid


def test_removing_a_job_removes_its_files(live):
    job = live.later(long(), prompts="speech")
    live.running(job["id"])
    place = live.data / "jobs" / job["id"]
    assert place.exists()
    assert live.client.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert not place.exists()
    for way in ("", "/events", "/archive", "/input", "/stems/speech"):
        problem(live.client.get(f"/v1/jobs/{job['id']}{way}"), 404)
    assert problem(live.client.delete(f"/v1/jobs/{job['id']}"), 404)
    assert problem(live.client.post(f"/v1/jobs/{job['id']}/cancel"), 404)


def test_a_client_that_goes_away_cancels_its_job(live):
    import httpx

    with pytest.raises(httpx.ReadTimeout), httpx.Client(base_url=live.url, timeout=httpx.Timeout(60, read=2)) as client:
        client.post("/v1/audio/separations", files={"file": long()}, data={"prompts": "speech"})
    newest = live.client.get("/v1/jobs?limit=1").json()[0]
    assert live.over(newest["id"])["status"] == "cancelled"


def test_a_worker_that_is_killed_begins_again_and_gives_up_at_last(live):
    job = live.later(long(), prompts="speech")
    live.running(job["id"])
    first = live.worker().pid
    os.kill(first, signal.SIGKILL)
    assert until(lambda: (now := live.job(job["id"]))["status"] == "queued" and now)["error"] is None
    live.running(job["id"])
    second = live.worker().pid
    os.kill(second, signal.SIGKILL)
    failed = live.over(job["id"])
    assert failed["status"] == "failed" and failed["error"]["status"] == 500 and first != second
    assert "2 times (signal 9)" in failed["error"]["detail"] and not failed["outputs"]
    assert not (live.data / "jobs" / job["id"] / "work").exists()


def test_a_job_whose_worker_was_killed_once_is_done(live):
    job = live.later(wav(SOME_S), prompts="speech")
    live.running(job["id"])
    os.kill(live.worker().pid, signal.SIGKILL)
    assert live.over(job["id"])["status"] == "done" and live.client.get("/ready").status_code == 200


def test_no_more_jobs_than_may_wait(live, monkeypatch):
    monkeypatch.setattr(live.settings, "max_jobs", 1)
    first = live.later(long(), prompts="speech")
    live.running(first["id"])
    second = live.later(prompts="speech")
    answer = live.separate(prompts="speech")
    assert "1 jobs are waiting" in problem(answer, 503) and int(answer.headers["retry-after"]) > 0
    for job in (second, first):
        assert live.client.delete(f"/v1/jobs/{job['id']}").status_code == 204


def test_results_expire(live, monkeypatch):
    id = live.separate(prompts="speech").json()["id"]
    store, place = live.server.store, live.data / "jobs" / id
    assert place.exists()
    store.write(("UPDATE jobs SET expires = 1 WHERE id = ?", id))
    ids = live.server.jobs.records.expired(2.0)
    assert ids == [id]
    import asyncio

    asyncio.run(live.server.jobs._forget(ids))
    assert not place.exists()
    problem(live.client.get(f"/v1/jobs/{id}"), 404)


def test_metrics_count_jobs_and_requests(live):
    from prometheus_client.parser import text_string_to_metric_families

    live.client.get("/v1/jobs/../../secret")
    live.client.get("/v1/jobs/who-knows")
    live.client.request("PROPFIND", "/health")
    answer = live.client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    found = {family.name: family for family in text_string_to_metric_families(answer.text)}
    assert {"ussfast_streams", "ussfast_stream_seconds", "ussfast_stream_pieces", "ussfast_stream_late_pieces",
            "ussfast_streams_refused", "ussfast_streams_resumed", "ussfast_hub_busy_ratio", "ussfast_hub_step_seconds",
            "ussfast_jobs", "ussfast_job_seconds", "ussfast_job_audio_seconds", "ussfast_http_requests",
            "ussfast_snapshots", "ussfast_prompts"} <= found.keys()  # fmt: skip
    jobs = {sample.labels["status"]: sample.value for sample in found["ussfast_jobs"].samples}
    assert jobs["done"] > 0 and set(jobs) == {"queued", "running", "done", "failed", "cancelled"}
    assert found["ussfast_prompts"].samples[0].value == len(live.client.get("/v1/prompts").json())
    audio = next(s for s in found["ussfast_job_audio_seconds"].samples if s.name.endswith("_total"))
    assert audio.value >= 1
    routes = {sample.labels["route"] for sample in found["ussfast_http_requests"].samples}
    assert {"/v1/jobs/{id}", "/v1/audio/separations", "/health", "other"} <= routes
    assert not any("who-knows" in route or "secret" in route for route in routes)
    methods = {sample.labels["method"] for sample in found["ussfast_http_requests"].samples}
    assert {"GET", "POST", "other"} <= methods and "PROPFIND" not in methods  # no caller adds to them
