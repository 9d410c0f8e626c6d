"""Audio out: WAV and FLAC files, written block by block, that appear only once they are complete."""

import contextlib
import os
import struct
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile

from ussfast.audio.atomic import free_bytes, remove, temporary_beside, write_failure
from ussfast.errors import InputError, OutputError

BIT_DEPTHS = {"wav": (32, 24, 16), "flac": (24, 16)}  # the first is the default
MAX_CHANNELS = {"wav": 1024, "flac": 8}
RIFF_LIMIT = 0xFFFFFFFF  # bytes; a larger WAV becomes an RF64


class AudioWriter:
    """Writes blocks to a WAV or FLAC file that appears at `path` only once it is complete.

    As a context manager it calls `close` at the end of the body, or `abort` if the body raises. Samples are
    never rescaled. In PCM (16 and 24 bit) full scale 1.0 is 2**(bits - 1), rounded to nearest without dither;
    what lies beyond full scale is clipped and counted. A WAV that passes 4 GiB becomes an RF64, whether or
    not its length was known.

    Attributes: path, sample_rate (Hz), channels, format, bit_depth, frames (so far), clipped (samples).

    Args:
        format: "wav" or "flac"; default: by the suffix of `path`.
        bit_depth: WAV: 32 (IEEE float, the default), 24 or 16 (PCM); FLAC: 24 (the default) or 16.
        expected_frames: if known, a WAV that cannot fit on the disk fails before the work, not after it.
    Raises:
        InputError: a format, bit depth, rate or number of channels that the file cannot have.
        OutputError: the file cannot be created, or will not fit. Also from `write` and `close`, when a write
            fails, the disk being full or else; nothing is left then, and an earlier file at `path` stays.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        sample_rate: int,
        channels: int,
        format: str | None = None,
        bit_depth: int | None = None,
        expected_frames: int | None = None,
    ):
        self._temporary: Path | None = None
        self._sink: _WavSink | _FlacSink | None = None
        self.path, self.sample_rate, self.channels = Path(path), sample_rate, channels
        self.format, self.bit_depth = _settings(self.path, sample_rate, channels, format, bit_depth)
        self.frames = self.clipped = 0
        self._temporary = temporary_beside(self.path)
        self._file: BinaryIO = open(self._temporary, "w+b")
        try:
            needed = (expected_frames or 0) * channels * self.bit_depth // 8
            if self.format == "wav" and needed > (free := free_bytes(self.path)):
                lack = f"{needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB free"
                raise OutputError(f"{self.path}: not enough space in {self.path.parent} ({lack})")
            sink = _WavSink if self.format == "wav" else _FlacSink
            self._sink = sink(self._file, sample_rate, channels, self.bit_depth)
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
        block = np.asarray(block)
        if block.ndim != 2 or block.shape[0] != self.channels or block.dtype.kind != "f":
            got = f"{block.dtype} {list(block.shape)}"
            raise InputError(f"{self.path}: float [{self.channels}, samples] expected, not {got}")
        if not np.isfinite(block).all():
            raise InputError(f"{self.path}: NaN or infinity in the audio to write")
        if self._temporary is None or self._sink is None:
            raise OutputError(f"{self.path}: already closed")
        frames = np.ascontiguousarray(block.T, "<f4")
        if self.bit_depth != 32:
            self.clipped += int(np.count_nonzero(np.abs(frames) > 1))
            full = 2 ** (self.bit_depth - 1)
            frames = np.clip(np.rint(frames * np.float32(full)), -full, full - 1).astype("<i4")
        sink = self._sink
        self._guarded(lambda: sink.write(frames))
        self.frames += block.shape[1]

    def close(self) -> None:
        """Completes the file and moves it to `path`. Calling it again does nothing. Raises OutputError."""
        if self._temporary is None:
            return
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


class _WavSink:
    """WAV by hand: libsndfile cannot turn a WAV into an RF64 once it has grown, and stamps float files with
    the time, so that the same audio would not give the same bytes."""

    def __init__(self, file: BinaryIO, sample_rate: int, channels: int, bits: int):
        self._file, self._rate, self._channels, self._bits = file, sample_rate, channels, bits
        self._size = 0
        file.write(self._header())

    def _header(self) -> bytes:
        width = self._channels * self._bits // 8
        kind = 3 if self._bits == 32 else 1  # IEEE float, PCM
        fields = (kind, self._channels, self._rate, self._rate * width % 2**32, width, self._bits)
        form = struct.pack("<HHIIHH", *fields) + (b"\0\0" if kind == 3 else b"")
        form = b"fmt " + struct.pack("<I", len(form)) + form
        fact = b"fact" + struct.pack("<II", 4, min(self._size // width, 2**32 - 1)) if kind == 3 else b""
        riff = 4 + 36 + len(form) + len(fact) + 8 + self._size + self._size % 2
        large = riff > RIFF_LIMIT
        # EBU Tech 3306: room for the 64-bit sizes is kept as JUNK in a file that turns out not to need them.
        sizes = struct.pack("<QQQI", riff, self._size, self._size // width, 0) if large else bytes(28)
        return b"".join(
            (
                b"RF64" if large else b"RIFF",
                struct.pack("<I", 0xFFFFFFFF if large else riff),
                b"WAVE",
                b"ds64" if large else b"JUNK",
                struct.pack("<I", 28),
                sizes,
                form,
                fact,
                b"data",
                struct.pack("<I", 0xFFFFFFFF if large else self._size),
            )
        )

    def write(self, frames: np.ndarray) -> None:
        """[n, channels]: float32, or PCM in int32."""
        if self._bits == 24:
            data = np.ascontiguousarray(frames).view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
        else:
            data = frames.astype("<i2" if self._bits == 16 else "<f4", copy=False).tobytes()
        self._file.write(data)
        self._size += len(data)

    def finish(self) -> None:
        self._file.write(bytes(self._size % 2))
        self._file.seek(0)
        self._file.write(self._header())

    def discard(self) -> None:
        pass


class _FlacSink:
    """FLAC through libsndfile, which loses the reason of a failed write: the file keeps it for us."""

    def __init__(self, file: BinaryIO, sample_rate: int, channels: int, bits: int):
        self._shift = 32 - bits  # libsndfile takes the upper bits
        self._file = _KeepsError(file)
        try:
            self._flac = soundfile.SoundFile(
                self._file, "w", sample_rate, channels, f"PCM_{bits}", format="FLAC", closefd=False
            )
        except soundfile.SoundFileError as error:
            self._file.check()
            raise InputError(f"FLAC of {channels} channels at {sample_rate} Hz: {error}") from error

    def write(self, frames: np.ndarray) -> None:
        try:
            self._flac.write(np.left_shift(frames, self._shift, dtype=np.int32))
        finally:
            self._file.check()

    def finish(self) -> None:
        try:
            self._flac.close()
        finally:
            self._file.check()

    def discard(self) -> None:
        with contextlib.suppress(soundfile.SoundFileError):
            self._flac.close()


class _KeepsError:
    """The file as libsndfile sees it: an error inside its callbacks would only be printed."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.error: OSError | None = None
        self.read, self.tell = file.read, file.tell

    def write(self, data: bytes) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = error
            return 0

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> None:
        try:
            self._file.seek(offset, whence)  # writes what was buffered
        except OSError as error:
            self.error = error

    def check(self) -> None:
        if self.error is not None:
            raise self.error


def _settings(
    path: Path, sample_rate: int, channels: int, format: str | None, bit_depth: int | None
) -> tuple[str, int]:
    name = (format or path.suffix[1:]).lower()
    if name not in BIT_DEPTHS:
        raise InputError(f"{path}: {name or 'no suffix'!r} is not a format to write: wav and flac are")
    depths = BIT_DEPTHS[name]
    depth = depths[0] if bit_depth is None else bit_depth
    if depth not in depths:
        raise InputError(f"{path}: {name} of {depth} bits: bit_depth must be one of {sorted(depths)}")
    if not 1 <= channels <= MAX_CHANNELS[name]:
        raise InputError(f"{path}: {name} holds 1 to {MAX_CHANNELS[name]} channels, not {channels}")
    if not isinstance(sample_rate, (int, np.integer)) or not 1 <= sample_rate < 2**31:
        raise InputError(f"{path}: the sample rate must be a whole number of Hz, not {sample_rate!r}")
    return name, depth
