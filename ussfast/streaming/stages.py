"""What audio goes through in a session: to the model's rate, through its core, and back."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ussfast.streaming.core import Core
from ussfast.streaming.resampler import ResamplerState, StreamResampler


class Stages:
    """Conversions of the rate around a core.

    Args:
        core: of `room` slots and as many channels.
        rate, model_rate: in Hz, of the stream and of the model.
    Attributes:
        taken: samples that came in.
    """

    def __init__(self, core: Core, channels: int, room: int, rate: int, model_rate: int):
        self.core, self.channels, self.room, self.rate, self.model_rate = core, channels, room, rate, model_rate
        self.incoming = StreamResampler(channels, rate, model_rate)
        self.outgoing = StreamResampler(room * channels, model_rate, rate)
        self.taken = 0

    @property
    def latency(self) -> float:
        """In seconds."""
        return self.incoming.delay / self.rate + (self.core.latency + self.outgoing.delay) / self.model_rate

    @property
    def fade(self) -> int:
        """Samples of output in which old and new prompts may both be heard."""
        return -(-(self.core.fade + self.outgoing.delay + self.core.hop) * self.rate // self.model_rate)

    def take(self, audio: np.ndarray) -> np.ndarray:
        """[channels, n] -> what the core gets; perhaps the same memory."""
        self.taken += audio.shape[1]
        if self.rate == self.model_rate:
            self.incoming.pass_on(audio.shape[1])
            return audio
        return self.incoming.push(torch.from_numpy(audio)).numpy()

    def give(self, ready: np.ndarray, slots: Sequence[int]) -> np.ndarray:
        """What the core returned -> [slots, channels, m] of those that are to be heard; the others are silent."""
        if self.rate == self.model_rate:
            self.outgoing.pass_on(ready.shape[2])
            return ready[_together(slots, 1)]
        return self._unfolded(self.outgoing.push(_folded(ready), _together(slots, self.channels)), len(slots))

    def flush(self, slots: Sequence[int]) -> np.ndarray:
        """The rest, as `give` has it: as many samples in all as came in."""
        taken, self.taken = self.taken, 0
        if not taken:
            return np.zeros((len(slots), self.channels, 0), np.float32)
        last = _folded(self.core.push(self.incoming.flush().numpy()))
        first = self.outgoing.push(torch.cat((last, _folded(self.core.flush())), 1))
        return self._unfolded(torch.cat((first, self.outgoing.flush(taken)), 1), self.room)[list(slots)]

    def reset(self) -> None:
        self.core.reset()
        self.incoming.reset()
        self.outgoing.reset()
        self.taken = 0

    def given(self, taken: int) -> int:
        """Samples that have come out after so many came in, before `flush`."""
        return self.outgoing.ready(self.core.given(self.incoming.ready(taken)))

    def after(self, taken: int) -> tuple[Any, ResamplerState, ResamplerState]:
        """What the states of core, incoming and outgoing are like after so many samples, for `fit`."""
        ready = self.incoming.ready(taken)
        return self.core.after(ready), self.incoming.after(taken), self.outgoing.after(self.core.given(ready))

    def load(self, core: Any, incoming: ResamplerState, outgoing: ResamplerState) -> None:
        """Goes on from states that fit."""
        self.core.load(core)
        self.incoming.load(incoming)
        self.outgoing.load(outgoing)
        self.taken = int(incoming.taken)

    def _unfolded(self, rows: Tensor, slots: int) -> np.ndarray:
        return rows.numpy().reshape(slots, self.channels, -1)


def _together(slots: Sequence[int], channels: int) -> slice | list[int]:
    """Rows of some slots; those that follow one another, as they mostly do, need not be picked one by one."""
    first, after = min(slots, default=0), max(slots, default=-1) + 1
    if tuple(slots) == tuple(range(first, after)):
        return slice(first * channels, after * channels)
    return [slot * channels + channel for slot in slots for channel in range(channels)]


def _folded(stems: np.ndarray) -> Tensor:
    """[room, channels, m] -> [room * channels, m]."""
    return torch.from_numpy(stems).flatten(0, 1)
