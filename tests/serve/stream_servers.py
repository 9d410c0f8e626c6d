"""Servers of live streams for tests, in this process or in one of their own, and sockets that misbehave."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import uvloop
from tiny import CAUSAL, tiny_directory

from ussfast import Separator
from ussfast.serve.running import made
from ussfast.serve.settings import ServeSettings
from ussfast.serve.streams.protocol import HEADER

ROOT = Path(__file__).parents[2]
PROGRAM = """
from ussfast.serve.running import run
from ussfast.serve.settings import ServeSettings
run(ServeSettings())
"""


def model(folder):
    """A small causal model, as a directory."""
    return str(tiny_directory(folder, CAUSAL))


def get(url, **headers):
    """(status, headers, text), whatever the proxies of this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=20) as answer:
            return answer.status, answer.headers, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read().decode()


class Here:
    """A server in a thread of this process; settings: of ServeSettings."""

    def __init__(self, folder, directory, ws=None, **settings):
        usual = {"data": folder, "port": 0, "device": "cpu", "model": directory, "rate_per_minute": 10**6}
        usual["threads"] = 2
        self.settings = ServeSettings(**usual | settings)
        self.uvicorn = made(self.settings)
        if ws is not None:
            self.uvicorn.config.ws = ws
        self.server = self.uvicorn.config.app.state.server
        self._thread = threading.Thread(target=lambda: uvloop.run(self.uvicorn.serve()), daemon=True)
        self._thread.start()
        while not self.uvicorn.started:
            assert self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        # Time of a machine that does other things beside says nothing of what is tested here.
        self.streams.load.headroom = 1e9
        self.port = self.uvicorn.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def streams(self):
        return self.server.parts["streams"]

    def stop(self):
        self.uvicorn.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive()


class Apart:
    """A server process on a port that is the same after `start` again."""

    def __init__(self, folder, directory, port, **settings):
        usual = {"data": folder, "port": port, "device": "cpu", "model": directory, "rate_per_minute": 10**6}
        given = {f"USSFAST_SERVE_{name.upper()}": str(value) for name, value in (usual | settings).items()}
        self._environment = os.environ | given | {"PYTHONPATH": str(ROOT)}
        self.url = f"http://127.0.0.1:{port}"
        self.start()

    def start(self):
        self.process = subprocess.Popen([sys.executable, "-c", PROGRAM], env=self._environment)

    def wait(self):
        while True:
            assert self.process.poll() is None, "the server ended"
            try:
                if get(f"{self.url}/ready")[0] == 200:
                    return
            except OSError:
                time.sleep(0.1)

    def end(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        self.process.wait(60)


def separator(directory):
    return Separator(directory, device="cpu")


def alone(session, audio, changes=()):
    """Stems of an uninterrupted session, by labels: {label: [(first, [channels, samples])]}; changes: (at, prompts)."""
    pieces, at = [], 0
    for position, prompts in changes:
        pieces.append(session.push(audio[:, at:position]))
        session.set_prompts(prompts)
        at = position
    return by_label([(p.labels, p.stems) for p in (*pieces, session.push(audio[:, at:]), session.flush())])


def by_label(pieces):
    """[samples in all] per label, silent where a label is not there."""
    total = sum(stems.shape[2] for _, stems in pieces)
    found, at = {}, 0
    for labels, stems in pieces:
        for label, stem in zip(labels, stems, strict=True):
            found.setdefault(label, np.zeros((stem.shape[0], total), np.float32))[:, at : at + stem.shape[1]] = stem
        at += stems.shape[2]
    return found


def same(got, want, tolerance=1e-4):
    """Former stems may leave a little earlier or later, when nothing is left of them."""
    for label in got.keys() | want.keys():
        nothing = np.zeros_like(next(iter(want.values())))
        a, b = got.get(label, nothing), want.get(label, nothing)
        assert a.shape == b.shape, (label, a.shape, b.shape)
        assert np.abs(a - b).max(initial=0) <= tolerance, (label, np.abs(a - b).max())


def parsed(data, channels=1):
    """(stems, labels_id, first, late_ms, float32 [stems, channels, frames]) of a piece of f32le."""
    _, _, stems, labels_id, first, frames, late_ms = HEADER.unpack_from(data)
    return first, labels_id, late_ms, np.frombuffer(data[HEADER.size :], "<f4").reshape(stems, channels, frames)


def run(work):
    return asyncio.run(asyncio.wait_for(work, 60))
