"""Mixtures of a user's clips with other sounds, made as they are needed."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ussfast.audio import resample
from ussfast.tuning.sounds import Sound

LEVEL_DB = (-8.0, 8.0)  # of what is beside the sound, over the sound
GAIN_DB = (-26.0, -14.0)  # of the sound itself: its RMS where it is heard
TRIES = 8
AUDIBLE = 1e-7  # mean square
BANDS, LOWEST = 6, 60.0  # of colours: evenly on a logarithmic scale, from so many Hz to 0.4 of the rate


class Mixtures:
    """Draws mixtures of one sound and one other.

    Args:
        sounds, others: not empty. seconds: of a mixture; rate: in Hz.
        rng: all the memory that there is.
        colour, semitones: by how much every sound is changed, see `TuneConfig`.
    """

    def __init__(
        self, sounds: Sequence[Sound], others: Sequence[Sound], seconds: float, rate: int, rng: np.random.Generator,
        colour: float = 0.0, semitones: float = 0.0,
    ):  # fmt: skip
        self.sounds, self.others, self.count, self.rng = sounds, others, round(seconds * rate), rng
        self.rate, self.colour, self.semitones = rate, colour, semitones

    def draw(self, number: int) -> tuple[Tensor, Tensor, list[int]]:
        """Mixtures and the sounds in them, both float32 [number, samples], and which of `sounds` these are.

        Every one is drawn as often as the others.
        """
        mixtures, sounds = np.zeros((2, number, self.count), np.float32)
        order = self._order(number)
        for row, index in enumerate(order):
            sound = self._cut(self.sounds[index])
            other = self._cut(self.others[int(self.rng.integers(len(self.others)))])
            gain, beside = (10 ** (self.rng.uniform(*db) / 20) for db in (GAIN_DB, LEVEL_DB))
            sounds[row] = gain * sound
            mixtures[row] = sounds[row] + gain * beside * other
        return torch.from_numpy(mixtures), torch.from_numpy(sounds), order

    def _order(self, number: int) -> list[int]:
        found: list[int] = []
        while len(found) < number:
            found += self.rng.permutation(len(self.sounds)).tolist()
        return found[:number]

    def _cut(self, sound: Sound) -> np.ndarray:
        """[samples], changed, at an RMS of 1 while it is heard; a short sound lies somewhere in it."""
        audio, count = self._changed(sound.audio), self.count
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

    def _changed(self, audio: np.ndarray) -> np.ndarray:
        """Another speed and colour of a sound, or of a part of a long one; the same where nothing is to be changed."""
        if self.semitones:
            faster = 2 ** (self.rng.uniform(-self.semitones, self.semitones) / 12)
            # Twice what a mixture needs, so that there is still a choice.
            most = round(2 * self.count * faster)
            start = int(self.rng.integers(max(0, len(audio) - most) + 1))
            audio = resample(audio[None, start : start + most], round(self.rate * faster), self.rate)[0]
        if self.colour:
            gains = self.rng.uniform(-self.colour, self.colour, BANDS) / 20
            hertz = np.arange(len(audio) // 2 + 1) * (self.rate / len(audio))
            bands = np.geomspace(LOWEST, 0.4 * self.rate, BANDS)
            factor = 10 ** np.interp(np.log(np.maximum(hertz, 1)), np.log(bands), gains)
            audio = np.fft.irfft(np.fft.rfft(audio) * factor, len(audio)).astype(np.float32)
        return audio
