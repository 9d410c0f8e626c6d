"""Sounds that are easy to tell apart, and what stands in for `Separator.tune`."""

import os
import sys
import threading
import time

import numpy as np
import torch
from tiny import RATE

from ussfast.ops import rms_group_norm
from ussfast.tuning.prompts import TuneStep


def tones(seed, seconds=1.5):
    rng = np.random.default_rng(seed)
    place = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * rng.uniform(180, 240) * place + rng.uniform(0, 6)).astype(np.float32) * 0.3


def hiss(seed, seconds=1.5):
    return np.diff(np.random.default_rng(seed).standard_normal(round(seconds * RATE) + 1)).astype(np.float32) * 0.2


CLIPS, AROUND = [tones(i) for i in range(5)], [hiss(i) for i in range(4)]


class Tuner:
    """In place of `Separator.tune`: makes steps when it is told to, of prompts that it is given."""

    def __init__(self, separator, monkeypatch):
        self.go, self.inside, self.seen = threading.Semaphore(0), threading.Event(), {}
        self.prompts, self.error, self.last, self.busy = [], None, None, False
        self.separator = separator
        monkeypatch.setattr(separator, "tune", self.tune)

    def tune(self, name, clips, backgrounds, sample_rate, start, *, steps, minutes, on_step, **settings):
        here = threading.get_native_id()
        assert (torch.zeros(300, 300) @ torch.zeros(300, 300)).sum() == 0
        rms_group_norm(torch.ones(100, 64), torch.ones(64), 4)
        self.seen = {"threads": torch.get_num_threads(), "name": name, "settings": settings, "id": here}
        if sys.platform == "linux":
            self.seen["priority"] = os.getpriority(os.PRIO_PROCESS, here)
        self.inside.set()
        while self.busy:
            time.sleep(0.001)
        for number, prompt in enumerate(self.prompts, 1):
            self.go.acquire()
            self.separator.prompts.add(prompt)
            on_step(TuneStep(number, 0.0, None, 0.0, 0.0, prompt))
        self.go.acquire()
        if self.error is not None:
            raise self.error
        return self.last or self.prompts[-1]
