"""Mixtures that audio prompt tuning is tested on: a clip of the class with one of another class, at the same level."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from ussfast.audio import read, resample
from ussfast.audio.arrays import mono
from ussfast.errors import InputError
from ussfast.evaluate.apt_cases import SoundClass

LEVEL = 0.1  # RMS of either sound
AUDIBLE = 1e-7  # mean square
TRIES = 8

Mixture = tuple[np.ndarray, np.ndarray]  # what is asked for, and what is beside it: float32 [samples]


def mixtures_of(
    sound: SoundClass, classes: Sequence[SoundClass], count: int, seconds: float, rate: int, seed: int
) -> Iterator[Mixture]:
    """`count` mixtures of a class at `rate` Hz; the first ones do not depend on how many there are.

    Its test clips take turns. The other sound is a test clip of another class, each class as likely as the others.
    """
    others = [c for c in classes if c.name != sound.name]
    for n in range(count):
        rng = np.random.default_rng((seed, sound.key, n))
        place = n % len(sound.test)
        own = sound.test[place:] + sound.test[:place]
        beside = others[int(rng.integers(len(others)))].test
        drawn = [beside[i] for i in rng.permutation(len(beside))]
        yield _audible(own, seconds, rate, rng), _audible(drawn, seconds, rate, rng)


def _audible(clips: Sequence[Path], seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray:
    """Of the first clip that is not silent."""
    for path in clips:
        cut = crop(path, seconds, rate, rng)
        if cut is not None:
            return cut
    raise InputError(f"{clips[0]}: is silent, and so are all test clips of its class; one with the sound is needed")


def crop(path: Path, seconds: float, rate: int, rng: np.random.Generator) -> np.ndarray | None:
    """float32 [samples] of a file at `rate` Hz and an RMS of LEVEL; a short one is repeated. None where it is silent.

    Raises:
        AudioError: the file cannot be read.
    """
    audio, own = read(path)
    line, count, whole = mono(audio), round(seconds * rate), math.ceil(seconds * own)
    if len(line) < whole:
        line = np.tile(line, -(-whole // len(line)))
    starts = rng.integers(len(line) - whole + 1, size=TRIES).tolist()
    # Where chance finds nothing in a long recording, its loudest sample is in what is taken.
    starts.append(int(np.clip(int(np.abs(line).argmax()) - whole // 2, 0, len(line) - whole)))
    for start in starts:
        part = line[start : start + whole]
        part = resample(part, own, rate, count) if own != rate else part[:count]
        power = float(np.square(part, dtype=np.float64).mean())
        if power > AUDIBLE:
            return np.asarray(part * np.float32(LEVEL / math.sqrt(power)), np.float32)
    return None
