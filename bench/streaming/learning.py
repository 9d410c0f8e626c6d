"""A stream with a prompt that is tuned beside it: times of its steps with and without, and results that come too late.

    python bench/streaming/learning.py -o bench/results/stream-learning.json
    python bench/streaming/learning.py --minutes 0.5 --sections 2        # a first look

Needs two cores. Blocks of a hop are handed out by the clock, a fifth of the time without the tuner, then with it, its
start included; a dropout is a result that is not there when the next block is. Then sections of steps one after the
other, with and without the tuner, take turns. Every 20 steps of the tuner another vector is switched in.
"""

import argparse
import json
import os
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import ussfast
from ussfast.profiling.profile import machine
from ussfast.tuning.bundled import backgrounds

SECTION_S, EVERY = 10.0, 20
PLACES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}


class Tuner:
    """Tunes without end, while it may; what it learns are effects that come with the package."""

    def __init__(self, session: Any, rate: int):
        self.gate, self.steps, self.session = threading.Event(), 0, session
        clips = [sound.audio for sound in backgrounds(rate)[:5]]
        self.gate.set()
        self.learning = session.tune("it", clips, None, rate, steps=10**7, patience=10**6, on_step=self._each)

    def _each(self, step: Any) -> None:
        self.steps += 1
        if self.steps % EVERY == 0:  # as if it were better each time
            self.session.replace_prompt("it", step.prompt.vector * (1 + 1e-5 * self.steps))
        self.gate.wait()


def times(took: list[float]) -> dict[str, float]:
    return {name: round(1e3 * float(np.quantile(took, q)), 3) for name, q in PLACES.items()}


def one_after_the_other(session: Any, audio: np.ndarray) -> list[float]:
    took: list[float] = []
    end = time.perf_counter() + SECTION_S
    while (begun := time.perf_counter()) < end:
        session.push(audio)
        took.append(time.perf_counter() - begun)
    return took


def by_the_clock(session: Any, audio: np.ndarray, seconds: float, begin: Callable[[], Any]) -> dict[str, Any]:
    """begin: called after a second."""
    hop, took, late, latest, last = session.hop_seconds, [], 0, 0.0, 0
    stalls: list[list[float]] = []
    start = time.perf_counter()
    for number in range(1, round(seconds / hop)):
        if number == round(1 / hop):
            begin()
        while (early := start + number * hop - time.perf_counter()) > 0:
            time.sleep(early)
        begun = time.perf_counter()
        session.push(audio)
        done = time.perf_counter()
        took.append(done - begun)
        after = done - (start + number * hop)
        if after > hop:
            # Blocks behind a late one are late, too, until the pace is reached again.
            if late and number == last + 1:
                stalls[-1][1] = max(stalls[-1][1], round(1e3 * after))
            else:
                stalls.append([round(number * hop, 1), round(1e3 * after)])
            late, last = late + 1, number
        latest = max(latest, after)
    longest = sorted(stalls, key=lambda stall: -stall[1])[:10]
    return {
        "seconds": seconds, "dropouts": late, "stalls": len(stalls), "longest_stalls_at_s_of_ms": longest,
        "latest_ms": round(1e3 * latest, 2), "step_ms": times(took),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--sections", type=int, default=6)
    parser.add_argument("-m", "--model", default="default")
    parser.add_argument("-o", "--output", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", ussfast.PromptWarning)  # effects of all kinds are one sound here
    separator = ussfast.Separator(options.model, ("speech", "sfxbg"))
    rate = separator.sample_rate
    separator.enroll("it", [sound.audio for sound in backgrounds(rate)[:5]], rate)
    session = separator.session(rate, prompts=("speech", "it"), channels=1)
    hop = round(session.hop_seconds * rate)
    audio = (0.1 * np.random.default_rng(0).standard_normal((1, hop))).astype(np.float32)
    facts: dict[str, Any] = {
        "model": options.model, "machine": machine(), "load": round(os.getloadavg()[0], 2),
        "hop_ms": round(1e3 * session.hop_seconds, 3),
    }  # fmt: skip
    tuners: list[Tuner] = []
    alone = by_the_clock(session, audio, 12 * options.minutes, lambda: None)
    clock = time.perf_counter()
    beside = by_the_clock(session, audio, 60 * options.minutes, lambda: tuners.append(Tuner(session, rate)))
    [tuner] = tuners
    beside["tuner_steps_per_second"] = round(tuner.steps / (time.perf_counter() - clock), 2)
    beside["prompts_switched_in"] = tuner.steps // EVERY
    while not tuner.steps and not tuner.learning.done:
        time.sleep(0.1)
    found: dict[str, list[float]] = {"without": [], "with": []}
    for _ in range(options.sections):
        for kind, took in found.items():
            (tuner.gate.set if kind == "with" else tuner.gate.clear)()
            time.sleep(0.5)  # the present step ends
            took += one_after_the_other(session, audio)
    facts |= {f"steps_ms_{kind}": times(took) for kind, took in found.items()}
    session.close()
    facts |= {
        "p99_ratio": round(facts["steps_ms_with"]["p99"] / facts["steps_ms_without"]["p99"], 2),
        "by_the_clock_without": alone,
        "by_the_clock_with": beside,
        "p99_ratio_by_the_clock": round(beside["step_ms"]["p99"] / alone["step_ms"]["p99"], 2),
    }
    print(json.dumps(facts, indent=1))
    if options.output:
        options.output.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
