"""What an enrolled prompt was made of, and its clips as they are kept. Nothing here needs torch."""

import io
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import soundfile

from ussfast.audio import resample
from ussfast.audio.ogg import encode
from ussfast.errors import InputError
from ussfast.plain import Checked, Range, Word

Average = Literal["mean", "robust"]
AVERAGE: Average = "mean"  # where nothing else is asked for
KEPT_SECONDS = 10.0  # of a clip at most: where it is loudest
MOST_RATE = 48_000  # of what is kept, in Hz
MOST_CLIP = 1 << 21  # bytes: many times what so much takes
LOSS = 0.3  # of quality: noise of the whole band takes 110 kbit/s
STEP_SECONDS = 0.5  # from one place where the loudest part may begin to the next
# Clips of one kind of sound have more in common; embeddings of detectors have much in common whatever is heard.
LEAST_COSINE, LEAST_OF_DETECTORS = 0.3, 0.6


@dataclass(frozen=True)
class Mark(Checked):
    """Which model: its name, and its fingerprint as `ModelInfo` has it."""

    name: Annotated[str, Word()]
    fingerprint: Annotated[str, Word(64)]

    def __str__(self) -> str:
        return f"{self.name!r} ({self.fingerprint[:8]})"


@dataclass(frozen=True)
class Agreement:
    """How alike the vectors of several clips are.

    cosine: the mean over all pairs. clip: the one least like the others, as errors call it. lowest: its mean cosine to
    the others. by_detector: whether a detector made the vectors.
    """

    cosine: float
    clip: str
    lowest: float
    by_detector: bool = False

    @property
    def advice(self) -> str | None:
        """One line for clips that disagree, None for others."""
        least = LEAST_OF_DETECTORS if self.by_detector else LEAST_COSINE
        if self.cosine >= least:
            return None
        return (
            f"the clips have little in common: their mean cosine is {self.cosine:.2f}, {least} is the least for "
            f"one kind of sound; {self.clip} is least like the others ({self.lowest:.2f}): drop that one first"
        )


@dataclass(frozen=True)
class Tuning(Checked):
    """How a prompt was tuned: steps, and the SDR in dB on held-out mixtures before and after."""

    steps: Annotated[int, Range(0, 1e9)]
    before: Annotated[float, Range(-1000, 1000)]
    after: Annotated[float, Range(-1000, 1000)]


@dataclass(frozen=True)
class Origin:
    """What an enrolled or tuned prompt was made of.

    count: of the clips. seconds: of all of them. average: that was taken of their vectors.
    clips: each as Ogg Vorbis, mono, KEPT_SECONDS at most; empty where none were kept.
    detector: that made the vectors; None if the model itself did.
    agreement: of three clips or more; prompts from a file do not have it.
    tuning: None where none took place.
    """

    count: int
    seconds: float
    average: Average
    clips: tuple[bytes, ...] = ()
    detector: Mark | None = None
    agreement: Agreement | None = None
    tuning: Tuning | None = None


class Loudest:
    """The loudest part of a clip that comes in pieces; the whole clip where it is not longer.

    rate: in Hz. seconds: of the part.
    """

    def __init__(self, rate: int, seconds: float = KEPT_SECONDS):
        self.rate = rate
        self._most, self._step = max(1, round(seconds * rate)), max(1, round(STEP_SECONDS * rate))
        self._best, self._energy = np.zeros(0, np.float32), -1.0
        self._held = np.zeros(0, np.float32)  # where a part may begin that goes on in the next piece

    def push(self, samples: np.ndarray) -> None:
        """The next samples, float32 [samples]."""
        held = np.concatenate((self._held, samples))
        last = len(held) - self._most
        if last <= 0:
            self._held = self._best = held
            self._energy = float(np.square(held, dtype=np.float64).sum())
            return
        sums = np.append(0.0, np.cumsum(np.square(held, dtype=np.float64)))
        starts = np.unique(np.append(np.arange(0, last, self._step), last))
        energies = sums[starts + self._most] - sums[starts]
        best = int(energies.argmax())
        if energies[best] > self._energy or len(self._best) < self._most:
            self._energy = float(energies[best])
            self._best = held[starts[best] : starts[best] + self._most].copy()
        self._held = held[last:].copy()

    @property
    def samples(self) -> np.ndarray:
        """float32 [samples], so far."""
        return self._best

    def encoded(self) -> bytes:
        """As Ogg Vorbis; what is beyond full scale becomes softer as a whole."""
        samples, rate = self._best, self.rate
        if rate > MOST_RATE:
            samples, rate = resample(samples, rate, MOST_RATE), MOST_RATE
        peak = float(np.abs(samples).max(initial=0))
        return encode(samples / np.float32(peak) if peak > 1 else samples, rate, LOSS)


def decoded(data: bytes, where: str) -> tuple[np.ndarray, int]:
    """(float32 [1, samples], rate in Hz) of a kept clip, KEPT_SECONDS at most; InputError if it is none."""
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            if (file.format, file.channels) != ("OGG", 1) or file.samplerate > MOST_RATE:
                raise ValueError(f"{file.format}, {file.channels} channels at {file.samplerate} Hz")
            rate = file.samplerate
            samples = file.read(round(KEPT_SECONDS * rate), dtype="float32")
    except (soundfile.SoundFileError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{where} cannot be decoded: {' '.join(str(error).split())}") from None
    if not samples.size or not np.isfinite(samples).all():
        raise InputError(f"{where} cannot be decoded: there are no samples in it")
    return samples[None], rate
