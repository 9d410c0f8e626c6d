"""The public class for detection: a model that says which sounds are in a recording, and when."""

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
import torch

from ussfast.audio import AudioReader, Resampler, given_file, is_file, known_rate, validate
from ussfast.audio.arrays import mono
from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.info import ModelInfo, describe
from ussfast.checkpoints.names import usual_detector
from ussfast.detect.events import Event, Events, Rules
from ussfast.detect.windows import Mean, cut
from ussfast.engine import forks
from ussfast.engine.lack import out_of_memory
from ussfast.engine.levels import bearable
from ussfast.engine.settings import pick_device
from ussfast.errors import AudioError, InputError, UssfastError
from ussfast.models import architecture_of
from ussfast.models._folded import has_bfloat16
from ussfast.models.detectors import DetectorModel
from ussfast.values import one_of

OVERLAP = 0.25  # of a window
DTYPES = {"auto": "float32", "float32": "float32", "fp32": "float32", "bfloat16": "bfloat16", "bf16": "bfloat16"}
ARRAY_BLOCK = 1 << 16


class Piece(NamedTuple):
    """What a window gives; frames are None from a model that tags clips only. `first` is where the window begins, in
    rows, and `end` where it ends, in samples, at the model's rate."""

    first: int
    end: int
    tags: np.ndarray
    frames: np.ndarray | None
    embedding: np.ndarray


class Detector:
    """Says which sounds are in a recording, and when.

    Everywhere `audio` is a path, an open binary file, or an array or tensor [samples] or [channels, samples], which is
    not modified; `sample_rate` is that of an array, in Hz: needed, and any will do. Files know theirs. Channels are
    averaged, those turned over whose phase is opposite to the loudest one's, so that they do not cancel. A clip up to
    the model's `segment_seconds` is one pass; what is longer goes through windows of that length that share a quarter
    with the next one, and only one of them is in memory. A clip below what the model takes is repeated.

    Args:
        model: a model directory, or "owner/name" on the Hugging Face Hub; by default the embedded one, "detector", if
            this installation has one.
        device: "auto", "cpu", "cuda" or "cuda:N".
        dtype: "auto" or "float32" for published scores, or "bfloat16" for large matrix products and convolutions in
            that, on devices that have such: two to three times as fast on a CPU, scores differ by about 0.01.
    Raises:
        CheckpointError, DeviceError (both UssfastErrors and ValueErrors); what takes audio also raises AudioError,
            InputError, and OutOfMemoryError.
    """

    def __init__(self, model: str | Path | None = None, *, device: str = "auto", dtype: str = "auto"):
        place = checkpoint.resolve(usual_detector() if model is None else str(model))
        self._set_up(*checkpoint.load_detector(place), device, dtype)

    @classmethod
    def from_model(
        cls, network: DetectorModel, *, name: str = "model", device: str = "auto", dtype: str = "auto"
    ) -> Self:
        """Wraps a network that is already in memory, which is moved to the device and into evaluation mode."""
        if not isinstance(network, DetectorModel):
            raise InputError(f"a Detector is made of a model that detects, got a {type(network).__name__}")
        info = describe(network.config, architecture_of(network.config), network.parameter_count(), name)
        detector = cls.__new__(cls)
        detector._set_up(network, info, device, dtype)
        return detector

    def _set_up(self, network: DetectorModel, info: ModelInfo, device: str, dtype: str) -> None:
        self.info, self.device = info, pick_device(device)
        narrow = DTYPES[one_of(dtype, "dtype", tuple(DTYPES))] == "bfloat16" and has_bfloat16(self.device)
        self._dtype = torch.bfloat16 if narrow else torch.float32
        with out_of_memory(self.device):
            self.model = network.to(self.device).eval().fold(self._dtype)
        self._grid = max(1, round(network.frame_seconds * self.sample_rate))
        least = max(network.least_samples + self._grid, round(network.config.segment_seconds * self.sample_rate))
        self._window = least
        self._step = max(1, round((1 - OVERLAP) * self._window / self._grid)) * self._grid

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Of pickles and copies: networks leave behind what they prepared."""
        self.__dict__.update(state)
        self.model.fold(self._dtype)

    def __repr__(self) -> str:
        return f"Detector({self.info.name}; {len(self.labels)} labels; {self.sample_rate} Hz on {self.device})"

    @property
    def labels(self) -> tuple[str, ...]:
        """The sounds that it knows, in the order of scores."""
        return self.model.labels

    @property
    def sample_rate(self) -> int:
        """The rate that the model works at, in Hz; input of any rate is converted."""
        return int(self.model.config.sample_rate)

    @property
    def frame_seconds(self) -> float:
        """From one row of `frames` to the next."""
        return self.model.frame_seconds

    def tag(
        self, audio: Any, sample_rate: int | None = None, *, progress: Callable[[float], object] | None = None
    ) -> np.ndarray:
        """float32 [labels], from 0 to 1: how sure it is that a sound is somewhere in the recording, the highest score
        of its windows; progress: as for `detect`."""
        tags = np.zeros(len(self.labels), np.float32)
        for piece in self._pieces(audio, sample_rate, progress):
            np.maximum(tags, piece.tags, out=tags)
        return tags

    def frames(self, audio: Any, sample_rate: int | None = None) -> np.ndarray:
        """float32 [frames, labels], from 0 to 1: row r is at r * frame_seconds. Where windows overlap, their mean.

        Raises:
            InputError: also for a model that tags whole clips only.
        """
        mean = Mean(len(self.labels))
        parts = [mean.push(piece.first, self._timed(piece)) for piece in self._pieces(audio, sample_rate)]
        return np.concatenate((*parts, mean.flush()))

    def embed(self, audio: Any, sample_rate: int | None = None) -> np.ndarray:
        """float32 [dim], a vector that stands for the sound: the mean over the windows."""
        found = [piece.embedding for piece in self._pieces(audio, sample_rate)]
        return np.asarray(np.mean(found, 0, dtype=np.float64), np.float32)

    def detect(
        self,
        audio: Any,
        sample_rate: int | None = None,
        *,
        threshold: float = 0.5,
        low: float | None = None,
        minimum: float = 0.1,
        gap: float = 0.25,
        labels: Sequence[str] | str | None = None,
        progress: Callable[[float], object] | None = None,
    ) -> list[Event]:
        """What is in the recording, and when, in order of onsets.

        Args:
            threshold, low, minimum, gap: see `Rules`: an event begins above `threshold` and goes on while above `low`
                (half of it by default); then gaps shorter than `gap` are filled, and after that events shorter than
                `minimum` dropped, both in seconds.
            labels: only these; by default all.
            progress: called with the seconds that are done after each window; what it raises stops the work.
        Raises:
            InputError: also for a label that the model does not know, or a model that tags whole clips only.
        """
        rules, columns = Rules(threshold, low, minimum, gap), self.columns(labels)
        events, mean, end = Events([self.labels[c] for c in columns], rules, self.frame_seconds), Mean(len(columns)), 0
        for piece in self._pieces(audio, sample_rate, progress):
            events.push(mean.push(piece.first, self._timed(piece)[:, columns]))
            end = piece.end
        events.push(mean.flush())
        return events.finish(end / self.sample_rate)

    def columns(self, labels: Sequence[str] | str | None = None) -> list[int]:
        """Where these labels are among the scores, None for all; InputError for one that the model does not know."""
        if labels is None:
            return list(range(len(self.labels)))
        names = [labels] if isinstance(labels, str) else list(labels)
        if not names:
            raise InputError("no labels are asked for: leave `labels` out for all")
        places = {label: place for place, label in enumerate(self.labels)}
        for name in names:
            if name not in places:
                near = difflib.get_close_matches(str(name), self.labels, n=3, cutoff=0.5)
                known = ", ".join(map(repr, near or self.labels[:3]))
                more = f"did you mean {known}?" if near else f"it knows {len(self.labels)}, such as {known}"
                raise InputError(f"the model does not know the label {str(name)!r}; {more}")
        return [places[name] for name in dict.fromkeys(names)]

    def _timed(self, piece: Piece) -> np.ndarray:
        if piece.frames is None:
            raise InputError(f"{self.info.name!r} tags whole clips (`tag`, --top): it has no scores over time")
        return piece.frames

    def _pieces(
        self, audio: Any, sample_rate: int | None, progress: Callable[[float], object] | None = None
    ) -> Iterator[Piece]:
        """What every window gives, in order; at least one."""
        some = False
        for start, window in cut(self._native(audio, sample_rate), self._window, self._step, self._grid):
            some = True
            yield self._analysed(start, mono(bearable(window)))
            if progress is not None:
                progress((start + window.shape[1]) / self.sample_rate)
        if not some:
            raise AudioError(f"the audio is too short: no sample of it is left at {self.sample_rate} Hz")

    def _analysed(self, start: int, clip: np.ndarray) -> Piece:
        samples, least = len(clip), self.model.least_samples
        if samples < least:
            clip = np.tile(clip, -(-least // samples))[:least]
        forks.compute(self.device)
        with out_of_memory(self.device), torch.inference_mode():
            # A copy: samples of a caller may not be writable, and torch warns of that.
            found = self.model(torch.from_numpy(clip.copy())[None].to(self.device))
            tags, embedding = (part[0].float().cpu().numpy() for part in (found.tags, found.embedding))
            frames = None
            if found.frames is not None:  # of a clip that was repeated, those of the first time
                frames = found.frames[0, : samples // self._grid + 1].float().cpu().numpy()
        if not all(np.isfinite(part).all() for part in (tags, embedding, frames) if part is not None):
            raise UssfastError(f"model {self.info.name!r} gave results that are not finite: its weights are damaged")
        return Piece(start // self._grid, start + samples, tags, frames, embedding)

    def _native(self, audio: Any, sample_rate: int | None) -> Iterator[np.ndarray]:
        """Blocks [channels, samples] at the model's rate."""
        if is_file(audio):
            if sample_rate is not None:
                raise InputError("sample_rate is for arrays; a file has its own")
            with AudioReader(given_file(audio)) as reader:
                yield from _converted(reader, reader.channels, reader.sample_rate, self.sample_rate)
            return
        samples = validate(audio)
        rate = known_rate(sample_rate, self.sample_rate)
        blocks = (samples[:, at : at + ARRAY_BLOCK] for at in range(0, samples.shape[1], ARRAY_BLOCK))
        yield from _converted(blocks, len(samples), rate, self.sample_rate)


def _converted(blocks: Iterable[np.ndarray], channels: int, rate: int, own: int) -> Iterator[np.ndarray]:
    if rate == own:
        yield from blocks
        return
    resampler = Resampler(channels, rate, own)
    for block in blocks:
        yield resampler.push(block)
    yield resampler.flush()
