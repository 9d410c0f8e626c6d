"""What encodes blocks into a file: WAV by hand, the rest through libsndfile."""

import contextlib
import os
import struct
from typing import BinaryIO

import numpy as np
import soundfile

from ussfast.audio.formats import FileSettings
from ussfast.errors import InputError

RIFF_LIMIT = 0xFFFFFFFF  # bytes; a larger WAV becomes an RF64
PIECE_FRAMES = 1 << 16  # Vorbis takes a write as a whole onto its stack


class WavSink:
    """WAV by hand: libsndfile cannot turn a WAV into an RF64 once it has grown, and stamps float files with
    the time, so that the same audio would not give the same bytes."""

    def __init__(self, file: BinaryIO, settings: FileSettings):
        assert settings.bit_depth is not None
        self._file, self._rate, self._channels, self._bits = file, settings.rate, settings.channels, settings.bit_depth
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


class SndfileSink:
    """All but WAV through libsndfile, which loses the reason of a failed write: the file keeps it for us."""

    def __init__(self, file: BinaryIO, settings: FileSettings):
        self._bits = settings.bit_depth
        self._file = _KeepsError(file)
        try:
            self._encoder = soundfile.SoundFile(
                self._file, "w", settings.rate, settings.channels, closefd=False, **settings.encoder()
            )
        except soundfile.SoundFileError as error:
            self._file.check()
            what = f"{settings.name.upper()} of {settings.channels} channels at {settings.rate} Hz"
            raise InputError(f"{what}: {error}") from error

    def write(self, frames: np.ndarray) -> None:
        """[n, channels]: PCM in int32, or float32 for lossy formats."""
        if self._bits is not None:
            frames = np.left_shift(frames, 32 - self._bits, dtype=np.int32)  # libsndfile takes the upper bits
        try:
            for start in range(0, len(frames), PIECE_FRAMES):
                self._encoder.write(frames[start : start + PIECE_FRAMES])
        finally:
            self._file.check()

    def finish(self) -> None:
        try:
            self._encoder.close()
        finally:
            self._file.check()

    def discard(self) -> None:
        with contextlib.suppress(soundfile.SoundFileError):
            self._encoder.close()


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
