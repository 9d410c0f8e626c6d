"""Raw PCM, little-endian and interleaved, between byte streams and float32 [channels, samples].

Integers follow the rule of the WAV writer: full scale 1.0 is 2**(bits - 1), rounded to nearest, clipped beyond.
"""

import select
from collections.abc import Iterator
from typing import Any

import numpy as np

from ussfast.errors import AudioError, InputError, OutputError
from ussfast.streaming.live.containers import container

WIDTHS = {"s16le": 2, "s24le": 3, "f32le": 4}  # bytes per sample
# What a pipe holds on Linux. A read returns what is there, so the size adds no delay.
READ_BYTES = 1 << 16


def decode(data: bytes | memoryview, format: str, channels: int) -> np.ndarray:
    """Whole frames of bytes as float32 [channels, samples]; NaN and infinity of f32le come through."""
    if format == "f32le":
        samples = np.frombuffer(data, "<f4")
    elif format == "s16le":
        samples = np.frombuffer(data, "<i2") / np.float32(2**15)
    else:
        wide = np.zeros((len(data) // 3, 4), np.uint8)
        wide[:, 1:] = np.frombuffer(data, np.uint8).reshape(-1, 3)
        samples = wide.view("<i4").ravel() / 2.0**31
    return np.array(samples.reshape(-1, channels).T, np.float32, order="C")


def encode(samples: np.ndarray, format: str) -> tuple[bytes, int]:
    """Float [channels, samples] as (bytes, how many samples lay beyond full scale and were clipped)."""
    frames = np.ascontiguousarray(samples.T, "<f4")
    if format == "f32le":
        return frames.tobytes(), 0
    clipped = int(np.count_nonzero(np.abs(frames) > 1))
    full = 2 ** (8 * WIDTHS[format] - 1)
    whole = np.clip(np.rint(frames * np.float32(full)), -full, full - 1).astype("<i4")
    if format == "s16le":
        return whole.astype("<i2").tobytes(), clipped
    return whole.view(np.uint8).reshape(-1, 4)[:, :3].tobytes(), clipped


class RawReader:
    """Reads frames from a byte stream as they come, each block whatever one read returned.

    Args:
        file: binary, such as sys.stdin.buffer; read past its own buffer, so that nothing waits there.
        format: of WIDTHS.
        channels: interleaved in the bytes.
        sample_rate: of them, in Hz, for advice on what is none.
    """

    def __init__(self, file: Any, format: str, channels: int, sample_rate: int | None = None):
        self._file, self._format, self._channels = getattr(file, "raw", file), format, channels
        self._rate = sample_rate

    def __iter__(self) -> Iterator[np.ndarray]:
        """Blocks float32 [channels, n], n >= 1, to the end.

        Raises:
            InputError: it cannot be read.
            AudioError: before the first block, if the bytes are those of a file of some format; after the last one, if
                they end inside a frame or there was no frame at all.
        """
        width = WIDTHS[self._format] * self._channels
        rest, frames = b"", 0
        for data in self._pieces(max(READ_BYTES, width)):
            data = rest + data
            whole = len(data) - len(data) % width
            rest = data[whole:]
            frames += whole // width
            if whole:
                yield decode(data[:whole], self._format, self._channels)
        if rest:
            raise AudioError(
                f"standard input: {len(rest)} bytes too many at the end: {self._channels} channels of "
                f"{self._format} make frames of {width} bytes"
            )
        if not frames:
            raise AudioError("standard input: no audio in it (0 samples)")

    def _pieces(self, count: int) -> Iterator[bytes]:
        """What the reads return, the first ones together until they show that they are no file."""
        head: bytes | None = b""
        while data := self._read(count):
            if head is not None:
                data = head + data
                head = data if self._is_raw(data) is None else None
            if head is None:
                yield data
        if head:
            self._is_raw(head, ended=True)
            yield head

    def _is_raw(self, head: bytes, ended: bool = False) -> bool | None:
        """True, or None if more bytes are needed to tell; AudioError if it is a file of some format."""
        kind = container(head, ended)
        if kind:
            form = f"-f {self._format} -ac {self._channels} -ar {self._rate or 'RATE'}"
            raise AudioError(
                f"standard input: is {kind}, not raw PCM: give the file's name (ussfast stream FILE), or decode it on "
                f"the way (ffmpeg -i - {form} - | ussfast stream ...)"
            )
        return None if kind is None else True

    def _read(self, count: int) -> bytes:
        try:
            while (data := self._file.read(count)) is None:  # set to non-blocking, and nothing there yet
                select.select([self._file], [], [])
            return data
        except OSError as error:
            raise InputError(f"standard input: could not be read: {error.strerror or error}") from error


class RawWriter:
    """Writes frames to a byte stream at once; waits as long as its reader does.

    Args:
        file: binary, such as sys.stdout.buffer; written past its own buffer, so that nothing waits there.
        format: of WIDTHS.
    """

    def __init__(self, file: Any, format: str):
        self._file, self._format = getattr(file, "raw", file), format
        self.clipped = 0

    def write(self, samples: np.ndarray) -> None:
        """Float [channels, n], any n. Raises BrokenPipeError, and OutputError if a write fails otherwise."""
        data, clipped = encode(samples, self._format)
        self.clipped += clipped
        left = memoryview(data)
        try:
            while left:
                count = self._file.write(left)
                if count is None:  # set to non-blocking, and its reader is late
                    select.select([], [self._file], [])
                else:
                    left = left[count:]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"standard output: could not be written: {error.strerror or error}") from error
