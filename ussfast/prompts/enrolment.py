"""Enrolment: example clips of a sound become a prompt."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol, cast, get_args

import numpy as np
import torch
from torch import Tensor

from ussfast.audio import AudioReader, is_file, known_rate, resample, validate
from ussfast.audio.arrays import mono
from ussfast.audio.held import given_file
from ussfast.errors import InputError
from ussfast.models import SpectralModel
from ussfast.prompts.averages import agreement, average
from ussfast.prompts.bank import Prompt
from ussfast.prompts.origin import AVERAGE, Average, Loudest, Mark, Origin
from ussfast.values import one_of

SHORTEST = 0.1  # seconds
SILENCE = 1e-5  # RMS
LOUD = 10.0  # a higher peak becomes 1: level does not matter, but squares of much louder samples are infinite
# A clip is embedded in pieces of so many seconds at most, whole numbers of a detector's segments, with so many samples
# of all channels: memory does not depend on its duration.
PIECE_SECONDS, STEP_SECONDS, PIECE_SAMPLES = 60, 2, 1 << 24


class ClipVector(Protocol):
    """Makes the vector of one clip, whose pieces [samples], at the rate of its `Source`, come in order."""

    def push(self, samples: Tensor, /) -> None: ...

    def finish(self) -> Tensor:
        """[dim] float32; InputError for a clip that gives none."""
        ...


@dataclass(frozen=True)
class Source:
    """What makes vectors of clips: `begin` is called for each; rate: in Hz; detector: None for the model itself."""

    rate: int
    begin: Callable[[], ClipVector]
    detector: Mark | None = None


class WholeClip:
    """The vector of a clip from a model's own `embed`, of unit length; of one with several pieces their mean."""

    def __init__(self, model: Any):
        self.model, self._found = model, list[Tensor]()
        self._least = SHORTEST * model.config.sample_rate

    def push(self, samples: Tensor) -> None:
        if len(samples) < self._least or float(samples.square().mean()) < SILENCE**2:
            return
        with torch.inference_mode():
            vector = self.model.embed(samples[None].to(self.model.prompts.device))[0].float()
            self._found.append(unit(vector))

    def finish(self) -> Tensor:
        if not self._found:
            raise InputError("it is silent; give a clip with the sound")
        return self._found[0] if len(self._found) == 1 else unit(torch.stack(self._found).mean(0))


def can_embed(model: SpectralModel) -> bool:
    return getattr(model, "embed", None) is not None


def own_source(model: SpectralModel) -> Source:
    """Of a model that `can_embed`."""
    return Source(model.config.sample_rate, lambda: WholeClip(model))


def enroll(
    source: Source,
    name: str,
    clips: Iterable[Any],
    sample_rate: Any = None,
    how: Average | None = None,
    device: torch.device | str = "cpu",
) -> Prompt:
    """A prompt with the average of the clips' vectors, on `device`; see `Separator.enroll`."""
    how = AVERAGE if how is None else cast(Average, one_of(how, "average", get_args(Average)))
    vectors, kept, called, seconds = [], [], [], 0.0
    for number, clip in enumerate(listed(clips), 1):
        clip = given_file(clip) if is_file(clip) else clip
        where = str(clip) if is_file(clip) else f"clip {number}"
        vector, loudest, length = _one(source, clip, where, sample_rate)
        vectors.append(vector)
        kept.append(loudest.encoded())
        called.append(where)
        seconds += length
    found = torch.stack(vectors)
    alike = agreement(found, called, source.detector is not None)
    origin = Origin(len(kept), seconds, how, tuple(kept), source.detector, alike)
    return Prompt(name, average(found, how).to(device).clone(), "enrolled", origin)


def _one(source: Source, clip: Any, where: str, sample_rate: Any) -> tuple[Tensor, Loudest, float]:
    """Vector, loudest part and seconds of a clip."""
    vector, loudest, samples, rate = source.begin(), None, 0, 1
    for piece, rate in pieces(clip, where, sample_rate, source.rate):
        loudest = loudest or Loudest(rate)
        one = mono_of(piece)
        samples += len(one)
        loudest.push(one)
        try:
            native = resample(one, rate, source.rate) if rate != source.rate else one
            vector.push(torch.from_numpy(native))
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
    if loudest is None or samples < SHORTEST * rate:
        raise InputError(f"{where}: {samples / rate:.3f} s are too short; give at least {SHORTEST} s")
    try:
        return vector.finish(), loudest, samples / rate
    except InputError as error:
        raise InputError(f"{where}: {error}") from None


def pieces(clip: Any, where: str, sample_rate: Any, model_rate: int) -> Iterator[tuple[np.ndarray, int]]:
    """(float32 [channels, samples], rate in Hz) of a path or open file, or of an array or tensor."""
    if not is_file(clip):
        audio = validate(clip, where)
        rate = known_rate(sample_rate, model_rate)
        most = _piece(len(audio), rate)
        yield from ((audio[:, at : at + most], rate) for at in range(0, audio.shape[1], most))
        return
    with AudioReader(clip) as reader:
        most, held, count = _piece(reader.channels, reader.sample_rate), list[np.ndarray](), 0
        for block in reader:
            held.append(block)
            count += block.shape[1]
            while count >= most:
                joined = np.concatenate(held, 1)
                held, count = [joined[:, most:].copy()], count - most
                yield joined[:, :most], reader.sample_rate
                del joined
        if count:
            yield np.concatenate(held, 1), reader.sample_rate


def _piece(channels: int, rate: int) -> int:
    """Samples of a piece."""
    fitting = PIECE_SAMPLES // (channels * rate) // STEP_SECONDS * STEP_SECONDS
    return rate * min(PIECE_SECONDS, max(STEP_SECONDS, fitting))


def listed(clips: Any) -> list[Any]:
    """The clips of any collection; InputError for one clip by itself, which is a collection, too, of what is none."""
    one = is_file(clips) or hasattr(clips, "__array__") or isinstance(clips, (bytes, bytearray, memoryview))
    listed = list(clips) if isinstance(clips, Iterable) and not one else []
    if not listed:
        raise InputError("enrolment needs a list of clips, at least one: paths, open files or arrays")
    return listed


def mono_of(audio: np.ndarray) -> np.ndarray:
    """[channels, samples] -> [samples], without what would be infinite."""
    peak = float(np.abs(audio).max())
    return mono(audio / np.float32(peak) if peak > LOUD else audio)


def unit(vector: Tensor) -> Tensor:
    """Scaled to a root mean square of 1, the length at which models look at prompts."""
    return vector / vector.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
