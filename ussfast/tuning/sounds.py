"""The clips that a prompt learns from, and what is mixed with them."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from ussfast.audio import is_file, resample
from ussfast.audio.held import given_file
from ussfast.errors import InputError
from ussfast.prompts.enrolment import SHORTEST, SILENCE, listed, mono_of, pieces
from ussfast.prompts.origin import Loudest

KEPT_SECONDS = 30.0  # of a clip or background: where it is loudest
MOST_CLIPS = 2000  # of each kind
CLIPPED = 0.005  # share of samples that stay at the peak, from which a clip is distorted


class Sound:
    """One clip at the model's rate. audio: float32 [samples]; called: as errors name it."""

    def __init__(self, audio: np.ndarray, called: str):
        self.audio, self.called = audio, called

    def __repr__(self) -> str:
        return f"Sound({self.called}: {len(self.audio)} samples)"


def read_sounds(clips: Iterable[Any], sample_rate: int | None, rate: int, what: str = "clip") -> list[Sound]:
    """Mono sounds at `rate`, KEPT_SECONDS of each at most; the rest of a long one is read, and forgotten.

    Args:
        clips: paths, open files or arrays [samples] or [channels, samples].
        sample_rate: of arrays.
    Raises:
        InputError: none, too many, or one that is too short or silent; AudioError: a file that cannot be read.
    """
    found = []
    given = listed(clips)
    if len(given) > MOST_CLIPS:
        raise InputError(f"{len(given)} {what}s are too many: give {MOST_CLIPS} at most")
    for number, clip in enumerate(given, 1):
        clip = given_file(clip) if is_file(clip) else clip
        called = str(clip) if is_file(clip) else f"{what} {number}"
        found.append(Sound(_loudest(clip, called, sample_rate, rate), called))
    return found


def _loudest(clip: Any, called: str, sample_rate: int | None, rate: int) -> np.ndarray:
    best, samples, own = None, 0, 1
    for piece, own in pieces(clip, called, sample_rate, rate):
        best = best or Loudest(own, KEPT_SECONDS)
        one = mono_of(piece)
        samples += len(one)
        best.push(one)
    if best is None or samples < SHORTEST * own:
        raise InputError(f"{called}: {samples / own:.3f} s are too short; give at least {SHORTEST} s")
    audio = best.samples if own == rate else resample(best.samples[None], own, rate)[0]
    if float(np.square(audio, dtype=np.float64).mean()) < SILENCE**2:
        raise InputError(f"{called} is silent; give a clip with the sound")
    return np.ascontiguousarray(audio, np.float32)


def clipped(sounds: Sequence[Sound]) -> list[str]:
    """Those whose samples stay where their own peak is again and again."""
    found = []
    for sound in sounds:
        level, peak = np.abs(sound.audio), float(np.abs(sound.audio).max())
        stays = (level[1:] > 0.99 * peak) & (np.abs(np.diff(sound.audio)) < 1e-5 * peak)
        if float(stays.mean()) > CLIPPED:
            found.append(sound.called)
    return found


def cut(sounds: Sequence[Sound], rate: int, seconds: float, folds: int) -> tuple[list[Sound], list[list[int]]]:
    """Pieces to learn from, and which of them each fold holds out: every piece once, if there are several folds.

    A piece is a clip, or a third of a single one. With one fold, every fourth piece is held out (at least one). Where a
    single clip is too short to be cut, nothing is: what decides then differs by what is mixed with the clip alone.
    """
    pieces = list(sounds)
    if len(pieces) == 1 and len(pieces[0].audio) > 1.5 * seconds * rate:
        pieces = [Sound(part, pieces[0].called) for part in np.array_split(pieces[0].audio, 3)]
    if len(pieces) == 1:
        return pieces, [[]]
    if folds == 1:
        return pieces, [[i for i in range(len(pieces)) if i % 4 == 3] or [len(pieces) - 1]]
    folds = min(folds, len(pieces))
    return pieces, [list(range(k, len(pieces), folds)) for k in range(folds)]
