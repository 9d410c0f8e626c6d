"""A server as its callers meet it: in a thread of the test's process, or as a program of its own."""

import asyncio
import contextlib
import functools
import io
import json
import os
import re
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import soundfile
import uvicorn
from tiny import RATE, noise

from ussfast.serve.app import create_app
from ussfast.serve.settings import ServeSettings

PATIENCE_S = 120.0  # of a busy machine


class Live:
    """url, client: to call it. server: its parts. folder: which the data folder is alone in."""

    def __init__(self, folder, model, **settings):
        self.folder, self.data = folder, folder / "data"
        self.app = create_app(ServeSettings(data=self.data, model=str(model), **settings))
        self.server = self.app.state.server
        self.settings = self.server.settings
        self._program = uvicorn.Server(uvicorn.Config(self.app, port=0, log_config=None, ws="none"))
        self._thread = threading.Thread(target=self._program.run, daemon=True)
        self._thread.start()
        until(lambda: self._program.started or not self._thread.is_alive())
        port = self._program.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)

    def stop(self):
        self.client.close()
        self._program.should_exit = True
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def separate(self, data=None, name="a.wav", headers=None, **fields):
        """An answer to POST /v1/audio/separations."""
        files = {"file": (name, wav() if data is None else data)}
        return self.client.post("/v1/audio/separations", files=files, data=fields, headers=headers)

    def later(self, data=None, name="a.wav", **fields):
        """A job that was accepted."""
        answer = self.separate(data, name, {"Prefer": "respond-async"}, **fields)
        assert answer.status_code == 202, answer.text
        return answer.json()

    def job(self, id):
        return self.client.get(f"/v1/jobs/{id}").json()

    def over(self, id):
        """The job once it is over."""
        return until(lambda: (job := self.job(id))["status"] in ("done", "failed", "cancelled") and job)

    def running(self, id):
        """The job once the worker is at it, and has done some."""
        return until(lambda: (job := self.job(id))["progress"]["done_s"] > 0 and job)

    def worker(self):
        """The worker's process, once there is one."""
        turns = self.server.jobs._turns[0]
        until(lambda: turns.lacking is None and turns.process.alive)
        return turns.process


class Program:
    """`ussfast serve` with these options, as a process."""

    def __init__(self, folder, model, *options, **variables):
        self.data = folder / "data"
        command = [sys.executable, "-m", "ussfast", "serve", "--port", "0", "--data", str(self.data), "-m", str(model)]
        self.process = subprocess.Popen(
            [*command, *options], stdout=subprocess.PIPE, stderr=open(folder / "log", "ab"), text=True,
            env=os.environ | {f"USSFAST_SERVE_{name.upper()}": value for name, value in variables.items()},
        )  # fmt: skip
        line = self.process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"{line}{(folder / 'log').read_text()}"
        self.client = httpx.Client(base_url=found[0], timeout=PATIENCE_S)

    job, over, running = Live.job, Live.over, Live.running
    separate, later = Live.separate, Live.later

    def signal(self, number):
        """Sends it; the exit code."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)

    def close(self):
        self.client.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()


def alike(stem, expected):
    """The same file, but for the last bits of samples, which another process may round differently."""
    ours, theirs = (soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True) for data in (stem, expected))
    head = len(stem) - ours[0].nbytes
    return len(stem) == len(expected) and stem[:head] == expected[:head] and np.abs(ours[0] - theirs[0]).max() < 1e-6


def until(what):
    """What it returns as soon as that is true."""
    end = time.monotonic() + PATIENCE_S
    while not (found := what()):
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.05)
    return found


def wav(seconds=1.0, channels=2, rate=RATE, seed=0, format="WAV"):
    """A file's bytes."""
    held = io.BytesIO()
    soundfile.write(held, noise(channels, round(seconds * rate), seed).T, rate, format=format)
    return held.getvalue()


@functools.cache
def long():
    """Bytes of audio that the worker is at for a while: hours of it, of a low rate."""
    return wav(8000.0, channels=1, rate=1000)


def events(client, id):
    """[(event, job)] of a job's stream of events, to its end."""
    found = []
    with client.stream("GET", f"/v1/jobs/{id}/events") as answer:
        assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/event-stream")
        name = None
        for line in answer.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                found.append((name, json.loads(value)))
    return found


def problem(answer, status):
    """The detail of a problem, which the answer has to be."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    told = answer.json()
    assert told["status"] == status and told["title"] and told["type"] == "about:blank"
    assert "Traceback" not in answer.text and "/data/" not in answer.text
    return told["detail"]


def everything(folder):
    """All files under a folder but those of the data folder, with their sizes."""
    return {
        str(path): path.stat().st_size for path in folder.rglob("*") if path.is_file() and "data" not in path.parts
    }  # fmt: skip


def run(coroutine):
    return asyncio.run(coroutine)
