"""Audio in: files as bounded blocks, callers' arrays, folders. Samples are float32 [channels, frames]."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio.decode import DecodeError, Source, audio_bytes, open_source
from ussfast.errors import AudioError, InputError

# What a folder is searched for; from .m4a on with ffmpeg only. A file given by name may have any suffix.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".caf",
    ".au", ".m4a", ".aac", ".wma", ".mp4", ".mkv", ".mka", ".mov", ".webm",
)  # fmt: skip

MAX_ARRAY_CHANNELS = 64  # more rows than this, and more rows than columns: the array is transposed


@dataclass(frozen=True)
class AudioInfo:
    """What a file's header says. `frames` and `seconds` are None where only decoding could tell."""

    path: Path
    sample_rate: int
    channels: int
    frames: int | None
    seconds: float | None
    format: str


class AudioReader:
    """Decodes a file block by block; memory does not depend on its duration.

    Iterate it once: each block is float32 [channels, frames], C-contiguous, the caller's own, finite, with
    1 <= frames <= block_frames, short only at the end. Full scale is [-1, 1); float files may exceed it.

    Attributes: path, sample_rate (Hz), channels, frames (None if only decoding could tell), info.

    Args:
        path: a regular file that libsndfile reads, or ffmpeg if it is on PATH.
        block_frames: longest block, in frames.
    Raises:
        AudioError: on opening, if the file is missing, empty, unreadable or shorter than its header promises;
            while iterating, if it turns out truncated or damaged, or holds NaN or infinity. A truncated Ogg,
            or MP3 without a length tag, reads as a shorter file: nothing in it promises a length.
        InputError: block_frames is below 1.
    """

    def __init__(self, path: str | os.PathLike[str], block_frames: int = 1 << 16):
        if block_frames < 1:
            raise InputError(f"block_frames must be at least 1, not {block_frames}")
        self.path, self._block_frames, self._done = Path(path), block_frames, 0
        self._source: Source | None = None
        size = _file_size(self.path)
        if size == 0:
            raise AudioError(f"{self.path}: empty file (0 bytes)")
        try:
            source = self._source = open_source(self.path)
        except DecodeError as error:
            raise AudioError(f"{self.path}: {error}") from error
        self.sample_rate, self.channels, self.frames = source.sample_rate, source.channels, source.frames
        self.info = AudioInfo(
            self.path, self.sample_rate, self.channels, self.frames, source.seconds, source.format
        )
        try:
            self._check_promise()
            if self.frames == 0:
                raise AudioError(f"{self.path}: no audio in it (0 samples)")
        except BaseException:
            self.close()
            raise

    def _check_promise(self) -> None:
        held = audio_bytes(self.path)
        if held is None or self.frames is None:
            return
        present, promised = held
        if present == 0:
            raise AudioError(f"{self.path}: truncated: none of its {promised} bytes of audio is there")
        promised_frames = self.frames * promised // present
        if promised_frames > self.frames:
            raise AudioError(self._truncated(self.frames, promised_frames / self.sample_rate))

    def _truncated(self, frames: int, promised_s: float | None, reason: object = "") -> str:
        whole = "" if promised_s is None else f" of {promised_s:.2f}"
        what = f"truncated or damaged ({reason})" if reason else "truncated"
        return f"{self.path}: {what}: only {frames / self.sample_rate:.2f}{whole} s could be read"

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def __next__(self) -> np.ndarray:
        source = self._source
        if source is None:
            raise StopIteration
        try:
            frames = source.read(self._block_frames)
            if not len(frames):
                source.finish(self._done / self.sample_rate)
        except DecodeError as error:
            self.close()
            raise AudioError(self._truncated(self._done, self.info.seconds, error)) from error
        if not len(frames):
            self.close()
            self._check_end(source)
            raise StopIteration
        block = frames.T.copy()
        _check_finite(block, f"{self.path}", self._done, self.sample_rate)
        self._done += block.shape[1]
        return block

    def _check_end(self, source: Source) -> None:
        if self._done == 0:
            raise AudioError(f"{self.path}: no audio in it (0 samples)")
        missing = 0 if self.frames is None else self.frames - self._done
        if missing > source.shortfall_s * self.sample_rate:
            raise AudioError(self._truncated(self._done, self.info.seconds))

    def close(self) -> None:
        """Frees the decoder; iterating then ends. Calling it again does nothing."""
        source, self._source = self._source, None
        if source is not None:
            source.close()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def probe(path: str | os.PathLike[str]) -> AudioInfo:
    """What a file's header says, without decoding it. Raises AudioError as opening an `AudioReader` does."""
    with AudioReader(path) as reader:
        return reader.info


def read(path: str | os.PathLike[str]) -> tuple[np.ndarray, int]:
    """The whole file: (float32 [channels, frames], sample rate in Hz). Raises as `AudioReader` does."""
    with AudioReader(path) as reader:
        return np.concatenate(list(reader), axis=1), reader.sample_rate


def validate(array: Any, where: str = "audio") -> np.ndarray:
    """Turns a caller's array into float32 [channels, frames], without ever writing to it.

    The result may share memory with `array`: treat it as read-only.

    Args:
        array: numpy array, torch tensor on any device, or anything with `__array__`; [frames] or
            [channels, frames]. Floats are taken as they are; integers are divided by their range (int16 by
            32768; unsigned ones are centred first), so that full scale is [-1, 1).
        where: what to call it in errors.
    Raises:
        AudioError: another type, shape or dtype, no samples, NaN or infinity, or clearly [frames, channels].
    """
    samples = as_samples(array, where)
    if samples.size == 0:
        raise AudioError(f"{where}: no samples in it (shape {list(np.shape(array))})")
    _check_finite(samples, where)
    return samples


def as_samples(array: Any, where: str = "audio") -> np.ndarray:
    """As `validate`, but there may be no samples, or some that are not finite."""
    if hasattr(array, "detach") and hasattr(array, "cpu"):
        tensor = array.detach().cpu()
        try:
            array = tensor.numpy()
        except TypeError:  # bfloat16 has no numpy twin
            array = tensor.float().numpy()
    if not hasattr(array, "__array__"):
        raise AudioError(f"{where}: a numpy array or torch tensor is needed, not {type(array).__name__}")
    values = np.asarray(array)
    if values.ndim not in (1, 2):
        shape = list(values.shape)
        raise AudioError(f"{where}: the shape must be [samples] or [channels, samples], not {shape}")
    if values.dtype.kind not in "iuf":
        raise AudioError(f"{where}: samples must be float or integer numbers, not {values.dtype}")
    rows, columns = np.atleast_2d(values).shape
    if rows > MAX_ARRAY_CHANNELS and rows > columns:
        raise AudioError(f"{where}: shape {[rows, columns]} looks transposed: pass [channels, samples]")
    if values.dtype.kind in "iu":
        span = 2.0 ** (8 * values.dtype.itemsize - 1)
        centre = span if values.dtype.kind == "u" else 0.0
        values = (values.astype(np.float64) - centre) / span
    with np.errstate(over="ignore"):  # what float32 cannot hold becomes infinity, which is for the caller to find
        return np.ascontiguousarray(np.atleast_2d(values), np.float32)


def find_inputs(
    paths: Iterable[str | os.PathLike[str]] | str | os.PathLike[str], tell: Callable[[AudioError], Any] | None = None
) -> list[tuple[Path, Path]]:
    """The audio files meant by `paths`, each with its place in a tree of outputs.

    Args:
        paths: files, taken whatever their suffix, and folders, searched recursively for AUDIO_SUFFIXES in
            sorted order. Hidden files and folders are skipped, links to folders are not followed.
        tell: is given the error about a folder inside that cannot be read, and the search goes on.
    Returns:
        (file, path relative to the given folder; a file's bare name) in the order given, each file once.
    Raises:
        AudioError: a path is missing, a folder cannot be read or holds no audio, or two files would get
            the same place.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    placed: dict[Path, Path] = {}  # place -> file
    for given in map(Path, paths):
        if os.path.isdir(given):
            found = [(file, file.relative_to(given)) for file in _audio_under(given, tell)]
            if not found:
                raise AudioError(f"{given}: no audio in this folder (looked for {', '.join(AUDIO_SUFFIXES)})")
        else:
            _file_size(given)
            found = [(given, Path(given.name))]
        for file, place in found:
            other = placed.setdefault(place, file)
            if other != file and not other.samefile(file):
                raise AudioError(f"{other} and {file} would share the output {place}: pass one at a time")
    return [(file, place) for place, file in placed.items()]


def _audio_under(folder: Path, tell: Callable[[AudioError], Any] | None) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        what = AudioError(f"{error.filename}: the folder could not be read: {error.strerror}")
        if tell is None or Path(error.filename) == folder:
            raise what from error
        tell(what)

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(name).suffix.lower() in AUDIO_SUFFIXES:
                yield Path(root, name)


def _file_size(path: Path) -> int:
    """Size in bytes of a readable regular file; AudioError says what else it is."""
    try:
        if path.is_dir():
            raise AudioError(f"{path}: is a folder, not an audio file")
        if path.exists() and not path.is_file():
            raise AudioError(f"{path}: is not a regular file")
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise AudioError(f"{path}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise AudioError(f"{path}: could not be opened: {reason}") from error


def _check_finite(block: np.ndarray, where: str, start: int = 0, sample_rate: int | None = None) -> None:
    finite = np.isfinite(block)
    if finite.all():
        return
    at = int(np.argmin(finite.all(axis=0)))
    kind = "NaN" if np.isnan(block[:, at]).any() else "infinity"
    when = f"sample {at}" if sample_rate is None else f"{(start + at) / sample_rate:.3f} s"
    raise AudioError(f"{where}: contains {kind}, first at {when}")
