"""What stands in for the process that tunes, and a separator for it."""

import threading
import time

from easy_sounds import RATE, heeding_model, hiss, tones

import ussfast
from ussfast.streaming.apart import Cancelled
from ussfast.tuning.prompts import TuneStep

SHORT = {"seconds": 0.5, "mixtures": 16, "held": 8, "every": 5, "lr": 0.1}
PATIENCE_S = 120  # for a thread of the lowest priority on a machine that is busy
CLIPS, AROUND = [tones(i) for i in range(5)], [hiss(i) for i in range(4)]


def prompted():
    """With an enrolled prompt "tone"."""
    separator = ussfast.Separator.from_model(heeding_model(), dtype="float32")
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
