"""Audio in: files as bounded blocks, and folders of them. Samples are float32 [channels, frames]."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio.arrays import check_finite
from ussfast.audio.decode import Source, open_source
from ussfast.audio.headers import audio_bytes
from ussfast.audio.held import HeldFile, given_file
from ussfast.errors import AudioError, InputError, UssfastError

# What a folder is searched for; from .m4a on with ffmpeg only. A file given by name may have any suffix.
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".aif", ".aiff", ".aifc", ".w64", ".rf64", ".caf",
    ".au", ".m4a", ".aac", ".wma", ".mp4", ".mkv", ".mka", ".mov", ".webm",
)  # fmt: skip


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

    Attributes: path (of an open file, its name), sample_rate (Hz), channels, frames (None if only decoding could tell),
        info.

    Args:
        path: a regular file that libsndfile reads, or ffmpeg if it is on PATH; or a file opened in binary mode, read
            from where it stands, and neither closed nor moved.
        block_frames: longest block, in frames.
    Raises:
        AudioError: on opening, if the file is missing, empty, unreadable or shorter than its header promises;
            while iterating, if it turns out truncated or damaged, or holds NaN or infinity. A truncated Ogg,
            or MP3 without a length tag, reads as a shorter file: nothing in it promises a length.
        InputError: block_frames is below 1.
    """

    def __init__(self, path: Any, block_frames: int = 1 << 16):
        if block_frames < 1:
            raise InputError(f"block_frames must be at least 1, not {block_frames}")
        self._given = given_file(path)
        self._owned = self._given if isinstance(self._given, HeldFile) and self._given is not path else None
        self.path, self._block_frames, self._done = Path(str(self._given)), block_frames, 0
        self._source: Source | None = None
        place = Path(self._given)
        size = file_size(place, self.path)
        try:
            if size == 0:
                raise AudioError(f"{self.path}: empty file (0 bytes)")
            source = self._source = open_source(place)
            self.sample_rate, self.channels, self.frames = source.sample_rate, source.channels, source.frames
            self.info = AudioInfo(
                self.path, self.sample_rate, self.channels, self.frames, source.seconds, source.format
            )
            self._check_promise(place)
            if self.frames == 0:
                raise AudioError(f"{self.path}: no audio in it (0 samples)")
        except BaseException as error:
            self.close()
            if isinstance(error, UssfastError) or not isinstance(error, Exception):
                raise
            # A damaged file may make a decoder raise anything.
            raise AudioError(f"{self.path}: {_reason(error)}") from error

    def _check_promise(self, place: Path) -> None:
        with open(place, "rb") as file:
            held = audio_bytes(file)
        if held is None or held.promised is None or self.frames is None:
            return
        if held.present == 0:
            raise AudioError(f"{self.path}: truncated: none of its {held.promised} bytes of audio is there")
        promised_frames = self.frames * held.promised // held.present
        if promised_frames > self.frames:
            raise AudioError(self._truncated(self.frames, promised_frames / self.sample_rate))

    def _truncated(self, frames: int, promised_s: float | None, reason: object = "") -> str:
        whole = "" if promised_s is None else f" of {promised_s:.2f}"
        what = f"truncated or damaged ({reason})" if reason else "truncated"
        return f"{self.path}: {what}: only {frames / self.sample_rate:.2f}{whole} s could be read"

    def __iter__(self) -> Iterator[np.ndarray]:
        return self

    def shorten(self, frames: int) -> None:
        """Blocks to come have so many frames at most."""
        self._block_frames = min(self._block_frames, frames)

    def __next__(self) -> np.ndarray:
        source = self._source
        if source is None:
            raise StopIteration
        try:
            frames = source.read(self._block_frames)
            if not len(frames):
                source.finish(self._done / self.sample_rate)
        except Exception as error:
            self.close()
            raise AudioError(self._truncated(self._done, self.info.seconds, _reason(error))) from error
        if not len(frames):
            self.close()
            self._check_end(source)
            raise StopIteration
        block = frames.T.copy()
        check_finite(block, f"{self.path}", self._done, self.sample_rate)
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
        if self._owned is not None:
            self._owned.remove()

    def __enter__(self) -> "AudioReader":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def probe(path: Any) -> AudioInfo:
    """What a file's header says, without decoding it. Raises AudioError as opening an `AudioReader` does."""
    with AudioReader(path) as reader:
        return reader.info


def read(path: Any) -> tuple[np.ndarray, int]:
    """The whole file: (float32 [channels, frames], sample rate in Hz). Raises as `AudioReader` does."""
    with AudioReader(path) as reader:
        return np.concatenate(list(reader), axis=1), reader.sample_rate


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
            found = [(file, file.relative_to(given)) for file in files_under(given, tell)]
            if not found:
                raise AudioError(f"{given}: no audio in this folder (looked for {', '.join(AUDIO_SUFFIXES)})")
        else:
            file_size(given, given)
            found = [(given, Path(given.name))]
        for file, place in found:
            other = placed.setdefault(place, file)
            if other != file and not other.samefile(file):
                raise AudioError(f"{other} and {file} would share the output {place}: pass one at a time")
    return [(file, place) for place, file in placed.items()]


def is_audio(path: Path) -> bool:
    """Whether a folder is searched for such a name."""
    return path.suffix.lower() in AUDIO_SUFFIXES


def files_under(
    folder: Path, tell: Callable[[AudioError], Any] | None, wanted: Callable[[Path], bool] = is_audio
) -> Iterator[Path]:
    """The files in a folder and those below it, folder by folder, in sorted order; see `find_inputs`."""

    def unreadable(error: OSError) -> None:
        what = AudioError(f"{error.filename}: the folder could not be read: {error.strerror}")
        if tell is None or Path(error.filename) == folder:
            raise what from error
        tell(what)

    for root, folders, names in os.walk(folder, onerror=unreadable):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and wanted(path := Path(root, name)):
                yield path


def file_size(path: Path, name: object) -> int:
    """Size in bytes of a readable regular file; AudioError says what else it is, and calls it `name`."""
    try:
        if path.is_dir():
            raise AudioError(f"{name}: is a folder, not an audio file")
        if path.exists() and not path.is_file():
            raise AudioError(f"{name}: is not a regular file")
        with open(path, "rb") as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError as error:
        raise AudioError(f"{name}: no such file") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"{name}: could not be opened: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split()) or type(error).__name__
