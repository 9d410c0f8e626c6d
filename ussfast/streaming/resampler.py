"""Sample-rate conversion of a live stream: little delay, and a memory that is a few tensors."""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ussfast.audio.resampling import check_settings, length_after
from ussfast.engine.nested import counted, described, fit
from ussfast.errors import InputError
from ussfast.streaming._filters import filter_of
from ussfast.streaming._sums import weighted_sums

# Input samples that are worked on at once: longer blocks need no more memory than these, besides their result.
_PIECE = 1 << 15
ALL = slice(None)


@dataclass(frozen=True)
class ResamplerState:
    """All that a `StreamResampler` remembers.

    tail: [channels, memory] float32, the newest input, zeros before the first sample.
    taken, given: int64 [], samples per channel that came in and went out so far.
    """

    tail: Tensor = field(metadata={"within": (-1e16, 1e16)})
    taken: Tensor
    given: Tensor


class StreamResampler:
    """Converts the rate of a stream with the filter of `ussfast.audio.resampling`, which is soxr's in quality HQ.

    Linear phase, no shift in time: output sample k is at k / rate_out seconds, however long the stream. What `push` and
    `flush` return adds up to the same bits however the input was cut, and differs by less than 1e-6 of full scale from
    what `ussfast.audio.resampling` makes of the whole. One exception: where rates have only a small factor in common,
    like 47999 and 32000 Hz, soxr takes their ratio for another one, 1e-10 off, and drifts away. Here time is exact,
    with a filter that agrees with soxr's to 4e-6 of full scale, but for 6e-5 just above a factor of 4.

    The first converter of a pair of rates measures the filter, in 1 to 300 ms, or 1 s for rates like 47999 Hz.

    Args:
        channels: at least 1.
        rate_in, rate_out: Hz, whole numbers from 1 to 768000, at most a factor of 1000 apart.
    Attributes:
        delay: in input samples. The output at time t, in input samples, is returned as soon as input sample
            floor(t) + delay is in. Nothing later has an effect on it.
    Raises:
        InputError: anything else.
    """

    def __init__(self, channels: int, rate_in: int, rate_out: int):
        self.channels, self.rate_in, self.rate_out = check_settings(channels, rate_in, rate_out)
        common = math.gcd(self.rate_in, self.rate_out)
        self._up, self._down = self.rate_out // common, self.rate_in // common
        self._filter = None if self._up == self._down else filter_of(self._up, self._down)
        self.delay = 0 if self._filter is None else self._filter.last
        memory = 0 if self._filter is None else self._filter.table.shape[1] - 1
        self._sums = weighted_sums()
        with torch.inference_mode(False):  # so that it can be written to in any mode
            self._tail = torch.zeros(channels, memory)
        self._taken = self._given = 0

    def reset(self) -> None:
        """Forgets the stream so far; the next `push` starts a new one."""
        self._tail.zero_()
        self._taken = self._given = 0

    @property
    def state(self) -> ResamplerState:
        """A copy of all that is remembered; a converter of the same settings that loads it continues bit for bit."""
        return ResamplerState(self._tail.clone(), torch.tensor(self._taken), torch.tensor(self._given))

    def load(self, state: ResamplerState) -> None:
        """Continues the stream that `state` is from.

        Raises:
            InputError: `state` is not from a converter with as many channels and the same rates.
        """
        fit(self.after(counted(state, "taken")), state)
        self._tail.copy_(state.tail)
        self._taken, self._given = int(state.taken), int(state.given)

    def after(self, taken: int) -> ResamplerState:
        """What the state is like after so many samples; what they were is not in it."""
        return ResamplerState(self._tail, torch.tensor(taken), torch.tensor(self.ready(taken)))

    def push(self, block: Tensor, rows: slice | list[int] = ALL) -> Tensor:
        """Takes [channels, n] float32 on the CPU, any n; returns what is ready as [channels, m], m may be 0.

        How many samples were returned so far depends only on how many came in. Raises InputError for another block.

        rows: the channels that somebody asks for now, and all that is returned, in this order. A slice is faster.
        """
        fits = isinstance(block, Tensor) and block.dim() == 2 and block.shape[0] == self.channels
        if not fits or block.dtype != torch.float32 or block.device.type != "cpu":
            where = f" on {block.device}" if isinstance(block, Tensor) else ""
            raise InputError(f"[{self.channels}, samples] float32 on the CPU expected, not {described(block)}{where}")
        block = block.detach()
        if block.shape[1] <= _PIECE:
            return self._convert(block, rows)
        out = block.new_empty(len(block[rows]), self.ready(self._taken + block.shape[1]) - self._given)
        done = 0
        for piece in block.split(_PIECE, 1):
            ready = self._convert(piece, rows)
            out[:, done : done + ready.shape[1]] = ready
            done += ready.shape[1]
        return out

    def flush(self, length: int | None = None) -> Tensor:
        """Ends the stream: the rest as [channels, m] float32. The next `push` starts a new stream.

        Args:
            length: samples of the whole output, `push`es included; default samples in * rate_out / rate_in,
                rounded. It may differ by the rounding of an earlier conversion, for the way back.
        Raises:
            InputError: length is further off than that, or below what was already returned.
        """
        length = length_after(self._taken, self._given, self.rate_in, self.rate_out, length)
        rest = length - self._given
        newest = max(0, length - 1) * self._down // self._up + self.delay
        silence = torch.zeros(self.channels, max(0, newest + 1 - self._taken))
        last = self.push(silence)[:, :rest].clone()
        self.reset()
        return last

    def ready(self, taken: int) -> int:
        """Output samples that `taken` input samples determine."""
        return max(0, -(-(taken - self.delay) * self._up // self._down))

    def pass_on(self, samples: int) -> None:
        """Like `push` of so many, where both rates are the same: they may go by."""
        assert self._filter is None
        self._taken += samples
        self._given += samples

    def _convert(self, piece: Tensor, rows: slice | list[int]) -> Tensor:
        count = self.ready(self._taken + piece.shape[1]) - self._given
        if self._filter is None:
            out = piece[rows].clone()
        else:
            window, oldest = torch.cat((self._tail, piece), 1), self._taken - self._tail.shape[1]
            base, phase = divmod(self._given * self._down, self._up)
            start = base + self._filter.first - oldest
            out = self._sums(window[rows], self._filter.table, start, phase, self._up, self._down, count)
            self._tail.copy_(window[:, piece.shape[1] :])
        self._taken += piece.shape[1]
        self._given += count
        return out
