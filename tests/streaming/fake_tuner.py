"""Sounds that are easy to tell apart, and what stands in for the process that tunes."""

import threading
import time

import numpy as np
import torch
from tiny import CAUSAL, RATE

import ussfast
from ussfast.models import build
from ussfast.streaming.apart import Cancelled
from ussfast.tuning.prompts import TuneStep


def tones(seed, seconds=1.5):
    rng = np.random.default_rng(seed)
    place = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * rng.uniform(180, 240) * place + rng.uniform(0, 6)).astype(np.float32) * 0.3


def hiss(seed, seconds=1.5):
    return np.diff(np.random.default_rng(seed).standard_normal(round(seconds * RATE) + 1)).astype(np.float32) * 0.2


SHORT = {"seconds": 0.5, "mixtures": 16, "held": 8, "every": 5, "lr": 0.1}
PATIENCE_S = 120  # for a thread of the lowest priority on a machine that is busy
CLIPS, AROUND = [tones(i) for i in range(5)], [hiss(i) for i in range(4)]


def prompted():
    """Of random weights, in which prompts matter much; "tone" is enrolled."""
    torch.manual_seed(0)
    model = build(CAUSAL)
    with torch.no_grad():
        model.by_band.mul_(50)
        for weight in model.decoder.outer:
            weight.mul_(3)
    separator = ussfast.Separator.from_model(model, dtype="float32")
    separator.enroll("tone", CLIPS, RATE)
    return separator


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


class Tuner:
    """In place of `Apart`: makes steps in the same process when it is told to, of prompts that it is given."""

    def __init__(self, separator, monkeypatch):
        self.go, self.call = threading.Semaphore(0), None
        self.prompts, self.error, self.last, self.stopped = [], None, None, False
        monkeypatch.setattr("ussfast.streaming.learning.Apart", self)

    def __call__(self, *call):
        self.call, self.stopped = call, False
        return self

    def run(self, each):
        for number, prompt in enumerate(self.prompts, 1):
            self._turn()
            each(TuneStep(number, 0.0, None, 0.0, 0.0, prompt))
        self._turn()
        if self.error is not None:
            raise self.error
        return self.last or self.prompts[-1]

    def _turn(self):
        self.go.acquire()
        if self.stopped:
            raise Cancelled

    def stop(self):
        self.stopped = True
        self.go.release()
