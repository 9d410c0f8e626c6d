"""Sample-rate conversion, whole or in a stream, with exact lengths."""

import math
import operator
from typing import Any

import numpy as np
import soxr

from ussfast.errors import InputError
from ussfast.values import shown

MAX_RATE_HZ = 768_000
MAX_RATIO = 1000  # soxr takes minutes to design filters for far larger ones

# There and back between 44.1 and 48 kHz, HQ leaves an error of -120 dB of full scale and VHQ -141 dB: both
# far below what separation changes. In a stream VHQ holds back twice as much (38 ms instead of 18 ms between
# 48 and 32 kHz), and whole files must give what streams give, so HQ serves both.
QUALITY = "HQ"


# soxr goes wrong at the beginning of sound that is there from sample 0, by up to 5e-2 of full scale for 44.1 to 32 kHz,
# and lets the filter's end fall silent: it gets so many samples of silence before and after, at the slower rate.
SILENCE = 512


class Resampler:
    """Converts the rate of a stream: what `push` and `flush` return adds up to `resample` of the whole.

    Linear phase, no shift in time: output sample k is at k / rate_out seconds. Equal rates change nothing.

    Args:
        channels: at least 1.
        rate_in, rate_out: Hz, whole numbers from 1 to 768000, at most a factor of 1000 apart.
    Raises:
        InputError: anything else.
    """

    def __init__(self, channels: int, rate_in: int, rate_out: int):
        self.channels, self.rate_in, self.rate_out = check_settings(channels, rate_in, rate_out)
        self._stream = None
        if self.rate_in != self.rate_out:
            self._stream = soxr.ResampleStream(self.rate_in, self.rate_out, channels, "float32", QUALITY)
        common = math.gcd(self.rate_in, self.rate_out)
        periods = math.ceil(SILENCE * max(self.rate_in, self.rate_out) / self.rate_out * common / self.rate_in)
        # Whole numbers of samples before and after the conversion.
        self._silence = np.zeros((periods * self.rate_in // common, channels), np.float32)
        self._early = periods * self.rate_out // common
        self.reset()

    def reset(self) -> None:
        """Forgets the stream so far; the next `push` starts a new one."""
        self._taken = self._given = 0
        self._skip = self._early  # output of the silence that is still to come
        if self._stream is not None:
            self._stream.clear()

    def push(self, block: np.ndarray) -> np.ndarray:
        """Takes [channels, n], any n; returns what is ready as float32 [channels, m], m may be 0.

        With equal rates the result may be `block` itself. Raises InputError for another shape.
        """
        if np.ndim(block) != 2 or block.shape[0] != self.channels:
            raise InputError(f"[{self.channels}, samples] expected, not {list(np.shape(block))}")
        first = self._taken == 0
        self._taken += block.shape[1]
        if self._stream is None:
            ready = np.ascontiguousarray(block, np.float32)
        else:
            frames = np.ascontiguousarray(block.T, np.float32)
            if first and len(frames):
                frames = np.concatenate((self._silence, frames))
            out = self._stream.resample_chunk(frames)
            skip = min(self._skip, len(out))
            self._skip -= skip
            ready = np.ascontiguousarray(out[skip:].T)
        self._given += ready.shape[1]
        return ready

    def flush(self, length: int | None = None) -> np.ndarray:
        """Ends the stream: the rest as float32 [channels, m]. The next `push` starts a new stream.

        Args:
            length: frames of the whole output, `push`es included; default frames in * rate_out / rate_in,
                rounded. It may differ by the rounding of an earlier conversion, for the way back.
        Raises:
            InputError: length is further off than that, or below what was already returned.
        """
        length = length_after(self._taken, self._given, self.rate_in, self.rate_out, length)
        rest = np.zeros((self.channels, length - self._given), np.float32)
        if self._stream is not None and self._taken:
            last = self._stream.resample_chunk(self._silence, last=True)[self._skip :][: rest.shape[1]]
            rest[:, : len(last)] = last.T
        self.reset()
        return rest


def resample(array: np.ndarray, rate_in: int, rate_out: int, length: int | None = None) -> np.ndarray:
    """Converts [channels, frames] or [frames] at once; float32 of the same rank, never writes to `array`.

    Args:
        rate_in, rate_out: Hz, as for `Resampler`.
        length: frames to return, as for `Resampler.flush`: pass the original length on the way back.
    Raises:
        InputError: bad rates or shape, or a length that this conversion cannot have.
    """
    if np.ndim(array) not in (1, 2):
        raise InputError(f"[samples] or [channels, samples] expected, not {list(np.shape(array))}")
    block = np.atleast_2d(array)
    rate = Resampler(block.shape[0], rate_in, rate_out)
    length = length_after(block.shape[1], 0, rate.rate_in, rate.rate_out, length)
    most = rate.push(block)
    rest = rate.flush(max(length, most.shape[1]))
    whole = np.concatenate((most, rest), 1)[:, :length]
    return whole if np.ndim(array) == 2 else whole[0]


def check_settings(channels: int, rate_in: Any, rate_out: Any) -> tuple[int, int, int]:
    """The same as plain numbers. Raises InputError as `Resampler` does."""
    if channels < 1:
        raise InputError(f"channels must be at least 1, not {channels}")
    rates = whole_rate(rate_in, "rate_in"), whole_rate(rate_out, "rate_out")
    if max(rates) > MAX_RATIO * min(rates):
        raise InputError(f"{rate_in} Hz and {rate_out} Hz are more than a factor of {MAX_RATIO} apart")
    return channels, *rates


def length_after(taken: int, given: int, rate_in: int, rate_out: int, length: int | None) -> int:
    """`length`, if roundings explain how it differs from what `taken` frames become; that, if None.

    Raises InputError if they do not, and if more than that was `given` already.
    """
    usual = (2 * taken * rate_out + rate_in) // (2 * rate_in)
    slack = 2 + math.ceil(rate_out / rate_in)
    if length is not None and abs(length - usual) > slack:
        raise InputError(f"a length of {length} is out of reach, {taken} samples become {usual} (+-{slack})")
    length = usual if length is None else length
    if length < given:
        raise InputError(f"a length of {length} is out of reach, {given} samples are out already")
    return length


def whole_rate(rate: Any, name: str, most: int = MAX_RATE_HZ) -> int:
    """A rate in Hz as a plain number; InputError for one that is not whole, below 1 or above `most`."""
    try:
        whole = operator.index(int(rate) if isinstance(rate, (float, np.floating)) and rate.is_integer() else rate)
    except TypeError:
        whole = 0
    if isinstance(rate, (bool, np.bool_)) or not 1 <= whole <= most:
        raise InputError(f"{name} must be a whole number of Hz from 1 to {most}, not {shown(rate)}")
    return whole
