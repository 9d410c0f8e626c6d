"""Schedules of a stream: chunks of any size, changes of prompts, resets, silence and rubbish, in any order."""

import random
from pathlib import Path

import numpy as np
from tiny import CAUSAL, tiny_model

from ussfast import Separator

SECONDS, MIB = 10.0, 256
PROMPTS = ("speech", "sfx", "drums", "sfx-1", "", "no such prompt")


def prepare(folder: Path) -> Separator:
    return Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")


def one(separator: Separator, rng: random.Random, folder: Path) -> None:
    channels, rate = rng.choice((1, 1, 2, 3)), rng.choice((8000, 16000, 44100, 48000))
    numbers = np.random.default_rng(rng.getrandbits(32))
    session = separator.session(rate, channels=rng.choice((None, channels)), max_prompts=rng.choice((None, 2, 6)))
    went = came = 0
    for _ in range(rng.randrange(12)):
        match rng.randrange(10):
            case 0:
                session.set_prompts([rng.choice(PROMPTS[:3]) for _ in range(rng.randint(1, 3))])
            case 1:
                session.reset()
                went = came = 0
            case 2:
                session.state = session.state
            case _:
                count = rng.choice((0, 1, 7, 160, 441, 1000, 4800))
                chunk = (numbers.standard_normal((channels, count)) * rng.choice((0, 1e-6, 0.1, 1e4))).astype("f4")
                if rng.random() < 0.1 and count:
                    chunk[:, rng.randrange(count)] = rng.choice((np.nan, np.inf, 1e38))
                piece = session.push(chunk)
                went, came = went + count, came + piece.mixture.shape[1]
                _check(piece)
    rest = session.flush()
    _check(rest)
    assert came + rest.mixture.shape[1] == went, f"{went} samples in, {came + rest.mixture.shape[1]} out"


def _check(piece) -> None:
    assert piece.stems.shape[1:] == piece.mixture.shape
    assert np.isfinite(piece.stems).all(), "stems are not finite"
