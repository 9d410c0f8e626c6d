"""Audio out: files written block by block, that appear only once they are complete."""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ussfast.audio.atomic import free_bytes, remove, temporary_beside, write_failure
from ussfast.audio.formats import OutputFormat
from ussfast.audio.resampling import Resampler
from ussfast.audio.sinks import SndfileSink, WavSink
from ussfast.errors import InputError, OutputError


class AudioWriter:
    """Writes blocks to a WAV, FLAC, MP3, Ogg or Opus file that appears at `path` only once it is complete.

    As a context manager it calls `close` at the end of the body, or `abort` if the body raises. Samples are
    never rescaled here (`StemWriter` does that). In PCM (16 and 24 bit) full scale 1.0 is 2**(bits - 1),
    rounded to nearest without dither; what lies beyond full scale is clamped and counted, in PCM always, else
    if the settings say so. A WAV that passes 4 GiB becomes an RF64, whether or not its length was known.
    Audio of a rate that MP3, Ogg or Opus cannot have is converted to the next higher one that it can, or to
    its highest.

    Attributes: path, sample_rate (Hz, of the blocks), file_rate (Hz, in the file), channels, format,
    bit_depth (None in lossy formats), frames (so far, at sample_rate), clipped (samples).

    Args:
        format: "wav", "flac", "mp3", "ogg" or "opus", or an OutputFormat; default: by the suffix of `path`.
        bit_depth: as in OutputFormat, where `format` is none.
        expected_frames: if known, a WAV that cannot fit on the disk fails before the work, not after it.
    Raises:
        InputError: settings, a rate or a number of channels that the file cannot have.
        OutputError: the file cannot be created, or will not fit. Also from `write` and `close`, when a write
            fails, the disk being full or else; nothing is left then, and an earlier file at `path` stays.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        channels: int,
        format: str | OutputFormat | None = None,
        bit_depth: int | None = None,
        expected_frames: int | None = None,
    ):
        self._temporary: Path | None = None
        self._sink: WavSink | SndfileSink | None = None
        self.path, self.channels = Path(path), channels
        settings = OutputFormat.of(format, bit_depth).for_file(self.path, sample_rate, channels)
        self.format, self.bit_depth, self.file_rate = settings.name, settings.bit_depth, settings.rate
        self.sample_rate = int(sample_rate)
        self._clamp = settings.clip == "clamp"
        self._resampler: Resampler | None = None
        if self.file_rate != self.sample_rate:
            self._resampler = Resampler(channels, self.sample_rate, self.file_rate)
        self.frames = self.clipped = 0
        self._temporary = temporary_beside(self.path)
        self._file: BinaryIO = open(self._temporary, "w+b")
        try:
            needed = (expected_frames or 0) * channels * (self.bit_depth or 0) // 8
            if self.format == "wav" and needed > (free := free_bytes(self.path)):
                lack = f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
                raise OutputError(f"{self.path}: not enough space in {self.path.parent} ({lack})")
            self._sink = (WavSink if self.format == "wav" else SndfileSink)(self._file, settings)
        except BaseException as error:
            self.abort()
            if isinstance(error, OSError):
                raise write_failure(self.path, error) from error
            raise

    def write(self, block: np.ndarray) -> None:
        """Appends float [channels, n], any n.

        Raises:
            InputError: another shape, or NaN or infinity in it.
            OutputError: the write failed, or the writer is closed.
        """
        block = self.check(block)
        if self._temporary is None or self._sink is None:
            raise OutputError(f"{self.path}: already closed")
        self._encode(block if self._resampler is None else self._resampler.push(block))
        self.frames += block.shape[1]

    def check(self, block: np.ndarray) -> np.ndarray:
        """The block, if `write` would take it. Raises InputError as `write` does."""
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype.kind != "f":
            got = f"{block.dtype} {list(block.shape)}"
            raise InputError(f"{self.path}: float [{self.channels}, samples] expected, not {got}")
        if not np.isfinite(block).all():
            raise InputError(f"{self.path}: NaN or infinity in the audio to write")
        return block

    def _encode(self, block: np.ndarray) -> None:
        """Float [channels, n] at the file's rate."""
        frames = np.ascontiguousarray(block.T, "<f4")
        pcm = self.bit_depth if self.bit_depth != 32 else None
        if self._clamp or pcm:
            self.clipped += int(np.count_nonzero(np.abs(frames) > 1))
        if pcm:
            full = 2 ** (pcm - 1)
            frames = np.clip(np.rint(frames * np.float32(full)), -full, full - 1).astype("<i4")
        elif self._clamp:
            frames = np.clip(frames, -1, 1)
        sink = self._sink
        assert sink is not None
        self._guarded(lambda: sink.write(frames))

    def close(self) -> None:
        """Completes the file and moves it to `path`. Calling it again does nothing. Raises OutputError."""
        if self._temporary is None:
            return
        if self._resampler is not None:
            self._encode(self._resampler.flush())
        self._guarded(self._commit)

    def _commit(self) -> None:
        assert self._temporary is not None and self._sink is not None
        self._sink.finish()
        self._file.close()  # what was still buffered can fail here
        os.replace(self._temporary, self.path)
        self._temporary = None

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            self.abort()
            if isinstance(error, (OSError, soundfile.SoundFileError)):
                raise write_failure(self.path, error) from error
            raise

    def abort(self) -> None:
        """Removes what was written; `path` stays as it was. After `close` or `abort` it does nothing."""
        temporary, self._temporary = self._temporary, None
        if temporary is not None:
            if self._sink is not None:
                self._sink.discard()
            with contextlib.suppress(OSError):
                self._file.close()
            remove(temporary)

    def __enter__(self) -> "AudioWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.close() if kind is None else self.abort()

    def __del__(self) -> None:
        if getattr(self, "_temporary", None) is not None:
            self.abort()
