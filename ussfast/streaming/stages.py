"""What audio goes through in a session: to the model's rate, through its core, and back."""

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
        """[channels, n] -> what the core gets."""
        self.taken += audio.shape[1]
        return self.incoming.push(torch.from_numpy(audio)).numpy()

    def give(self, ready: np.ndarray) -> np.ndarray:
        """What the core returned -> [room, channels, m]."""
        return self._unfolded(self.outgoing.push(_folded(ready)))

    def flush(self) -> np.ndarray:
        """The rest, [room, channels, m]: as many samples in all as came in."""
        taken, self.taken = self.taken, 0
        if not taken:
            return np.zeros((self.room, self.channels, 0), np.float32)
        last = _folded(self.core.push(self.incoming.flush().numpy()))
        first = self.outgoing.push(torch.cat((last, _folded(self.core.flush())), 1))
        return self._unfolded(torch.cat((first, self.outgoing.flush(taken)), 1))

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

    def _unfolded(self, rows: Tensor) -> np.ndarray:
        return rows.numpy().reshape(self.room, self.channels, -1)


def _folded(stems: np.ndarray) -> Tensor:
    """[room, channels, m] -> [room * channels, m]."""
    return torch.from_numpy(stems).flatten(0, 1)
