"""Raw PCM: bytes to samples and back, whatever sizes the reads have."""

import contextlib
import io
import os
import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.errors import AudioError, InputError, OutputError
from ussfast.streaming.live.pcm import WIDTHS, RawReader, RawWriter, decode, encode

FORMATS = sorted(WIDTHS)


class Dribble:
    """A raw file whose reads return pieces of these sizes, over and over; size 0: nothing there yet."""

    def __init__(self, data, sizes):
        self._data, self._sizes, self._turn = io.BytesIO(data), sizes, 0

    def read(self, count):
        size = self._sizes[self._turn % len(self._sizes)]
        self._turn += 1
        return self._data.read(min(count, size))


def pcm(format, channels, frames, seed=0):
    data = np.random.default_rng(seed).bytes(frames * channels * WIDTHS[format])
    if format == "f32le":  # random bytes hold NaN
        data = np.random.default_rng(seed).standard_normal(frames * channels).astype("<f4").tobytes()
    return data


@pytest.mark.parametrize("format", FORMATS)
def test_bytes_come_back_exactly(format):
    data = pcm(format, 3, 500)
    assert encode(decode(data, format, 3), format) == (data, 0)


@pytest.mark.parametrize("format, full", [("s16le", 2**15), ("s24le", 2**23)])
def test_full_scale_and_channels(format, full):
    values = [0, 1, -1, full // 2, full - 1, -full]
    data = b"".join(v.to_bytes(WIDTHS[format], "little", signed=True) for v in values)
    expected = np.array(values, np.float64).reshape(-1, 2).T / full
    samples = decode(data, format, 2)
    assert samples.dtype == np.float32 and samples.flags.c_contiguous and samples.flags.writeable
    np.testing.assert_array_equal(samples, expected)


@pytest.mark.parametrize("format, full", [("s16le", 2**15), ("s24le", 2**23)])
def test_loud_samples_are_clipped_and_counted_never_wrapped(format, full):
    data, clipped = encode(np.array([[1.0, -1.0, 1.5, -7.0, 1e9]], np.float32), format)
    assert clipped == 3
    np.testing.assert_array_equal(decode(data, format, 1)[0] * full, [full - 1, -full, full - 1, -full, full - 1])


def test_float_keeps_what_is_beyond_full_scale():
    loud = np.array([[3.5, -9.0, np.nan]], np.float32)
    data, clipped = encode(loud, "f32le")
    assert clipped == 0
    np.testing.assert_array_equal(decode(data, "f32le", 1), loud)


@settings(max_examples=60, deadline=None)
@given(
    format=st.sampled_from(FORMATS),
    channels=st.integers(1, 5),
    frames=st.integers(1, 300),
    extra=st.integers(0, 19),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=6),
)
def test_reads_of_any_sizes(format, channels, frames, extra, sizes):
    data, width = pcm(format, channels, frames), channels * WIDTHS[format]
    extra = extra % width
    reader, blocks = RawReader(Dribble(data + bytes(extra), sizes), format, channels), []
    ending = pytest.raises(AudioError, match=f"{extra} bytes too many at the end.*frames of {width} bytes")
    with ending if extra else contextlib.nullcontext():
        blocks.extend(reader)  # keeps what came before an error
    assert all(block.shape[1] > 0 for block in blocks)
    assert encode(np.concatenate(blocks, 1), format)[0] == data


def test_a_read_returns_what_is_there():
    out, into = os.pipe()
    with open(out, "rb") as file, open(into, "wb", 0) as pipe:
        blocks = iter(RawReader(file, "s16le", 1))
        for samples in (b"\1\0", b"\2\0\3\0", b"\4"):
            pipe.write(samples)
            if len(samples) > 1:
                np.testing.assert_array_equal(next(blocks)[0] * 2**15, np.frombuffer(samples, "<i2"))
        pipe.write(b"\0")
        np.testing.assert_array_equal(next(blocks)[0] * 2**15, [4])


def test_pipes_that_do_not_block_are_waited_for():
    out, into = os.pipe()
    os.set_blocking(out, False)
    os.set_blocking(into, False)
    samples = np.random.default_rng(0).standard_normal((2, 50_000)).astype(np.float32)  # more than the pipe holds

    def write():
        with open(into, "wb") as file:
            RawWriter(file, "f32le").write(samples)

    writer = threading.Thread(target=write)
    writer.start()
    with open(out, "rb") as file:
        np.testing.assert_array_equal(np.concatenate(list(RawReader(file, "f32le", 2)), 1), samples)
    writer.join()


def test_no_bytes_are_an_error():
    with pytest.raises(AudioError, match="standard input: no audio in it"):
        list(RawReader(io.BytesIO(), "s16le", 1))


def test_what_cannot_be_read_or_written():
    with open("/dev/full", "wb", 0) as full:
        with pytest.raises(OutputError, match="standard output: could not be written: No space left"):
            RawWriter(full, "s16le").write(np.zeros((1, 10), np.float32))

    class Broken:
        def read(self, count):
            raise OSError(5, "Input/output error")

    with pytest.raises(InputError, match="standard input: could not be read: Input/output error"):
        list(RawReader(Broken(), "s16le", 1))
