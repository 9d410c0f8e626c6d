"""Mixtures of a user's clips with other sounds, made as they are needed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ussfast.tuning.sounds import Sound

LEVEL_DB = (-8.0, 8.0)  # of what is beside the sound, over the sound
GAIN_DB = (-26.0, -14.0)  # of the sound itself: its RMS where it is heard
TRIES = 8
AUDIBLE = 1e-7  # mean square


class Mixtures:
    """Draws mixtures of one sound and one other.

    Args:
        sounds, others: not empty. seconds: of a mixture; rate: in Hz.
        rng: all the memory that there is.
    """

    def __init__(
        self, sounds: Sequence[Sound], others: Sequence[Sound], seconds: float, rate: int, rng: np.random.Generator
    ):
        self.sounds, self.others, self.count, self.rng = sounds, others, round(seconds * rate), rng

    def draw(self, number: int) -> tuple[Tensor, Tensor]:
        """Mixtures and the sounds in them, both float32 [number, samples]; every sound as often as the others."""
        mixtures, sounds = np.zeros((2, number, self.count), np.float32)
        order = self._order(number)
        for row, index in enumerate(order):
            sound = self._cut(self.sounds[index])
            other = self._cut(self.others[int(self.rng.integers(len(self.others)))])
            gain, beside = (10 ** (self.rng.uniform(*db) / 20) for db in (GAIN_DB, LEVEL_DB))
            sounds[row] = gain * sound
            mixtures[row] = sounds[row] + gain * beside * other
        return torch.from_numpy(mixtures), torch.from_numpy(sounds)

    def _order(self, number: int) -> list[int]:
        found: list[int] = []
        while len(found) < number:
            found += self.rng.permutation(len(self.sounds)).tolist()
        return found[:number]

    def _cut(self, sound: Sound) -> np.ndarray:
        """[samples] at an RMS of 1 while it is heard; a short sound lies somewhere in it."""
        audio, count = sound.audio, self.count
        if len(audio) <= count:
            out = np.zeros(count, np.float32)
            start = int(self.rng.integers(count - len(audio) + 1))
            out[start : start + len(audio)] = audio
        else:
            for _ in range(TRIES):
                start = int(self.rng.integers(len(audio) - count + 1))
                out = audio[start : start + count]
                if float(np.square(out).mean()) > AUDIBLE:
                    break
        return out / np.sqrt(max(AUDIBLE, float(np.square(out, dtype=np.float64).mean())))
