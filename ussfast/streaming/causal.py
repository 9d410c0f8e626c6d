"""Streams through a causal model, hop by hop, alone or together."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ussfast.engine.nested import copied
from ussfast.errors import InputError
from ussfast.long_audio.alignment import Groups
from ussfast.models.causal.hop import StreamState
from ussfast.streaming.rows import CausalRows


@dataclass(frozen=True)
class CausalCoreState:
    """stream: of the model. pending: [channels, n] less than a hop of input. taken: int64, samples so far."""

    stream: StreamState
    pending: Tensor = field(metadata={"within": (-1e12, 1e12)})
    taken: Tensor


class CausalCore:
    """A `Core` for one stream of some rows.

    The windows of the inverse transform overlap by a hop: when prompts change, the last frame of the old ones and the
    first of the new ones cross-fade by themselves.
    """

    def __init__(
        self, rows: CausalRows, row: int, vectors: Tensor | None, slots: tuple[int, ...], groups: Groups
    ):
        self.rows, self._row, self._former = rows, row, rows.former[row]
        self.hop = self.fade = rows.hop
        self.latency = rows.model.config.latency_samples
        # The sources' slots in order, then the others: the order of what a step returns.
        self.order = list(range(rows.slots))
        self.pending = np.zeros((rows.channels, self.hop), np.float32)
        self.waiting = self.taken = 0
        self.set_prompts(vectors, slots, groups)

    @property
    def row(self) -> int:
        """InputError once the row is free for another stream."""
        if self.rows.former[self._row] != self._former:
            raise InputError("this stream has left its pool: its session has ended, join again for another")
        return self._row

    def check_open(self) -> None:
        _ = self.row

    def set_prompts(self, vectors: Tensor | None, slots: tuple[int, ...], groups: Groups = ()) -> None:
        assert vectors is not None
        self.rows.set_prompts(self.row, vectors, bool(groups) and self.rows.channels > 1)
        order = [*slots, *(slot for slot in range(self.rows.slots) if slot not in slots)]
        if order != self.order:
            self.rows.reorder(self.row, [self.order.index(slot) for slot in order])
            self.order = order

    def foresee(self, vectors: Tensor) -> None:
        self.rows.engine.condition(vectors)

    def push(self, audio: np.ndarray) -> np.ndarray:
        return push_together({self: audio})[self]

    def flush(self) -> np.ndarray:
        if not self.taken:
            return np.zeros((self.rows.slots, self.rows.channels, 0), np.float32)
        missing = self.taken - self.given(self.taken)
        fill = self.latency - self.hop + -self.taken % self.hop
        rest = self.push(np.zeros((self.rows.channels, fill), np.float32))[..., :missing]
        self.reset()
        return rest

    def reset(self) -> None:
        self.rows.reset(self.row)
        self.waiting = self.taken = 0

    @property
    def state(self) -> CausalCoreState:
        return copied(self.after(self.taken))

    def given(self, taken: int) -> int:
        return max(0, taken - taken % self.hop - self.latency + self.hop)

    def after(self, taken: int) -> CausalCoreState:
        pending = torch.from_numpy(self.pending[:, : taken % self.hop])
        return CausalCoreState(self.rows.row_state(self.row), pending, torch.tensor(taken))

    def load(self, state: CausalCoreState) -> None:
        self.rows.load(self.row, state.stream)
        self.taken = int(state.taken)
        self.waiting = self.taken % self.hop
        self.pending[:, : self.waiting] = state.pending.cpu().numpy()


class _Turn:
    """What one core has been given, and its output.

    All with NumPy: what takes PyTorch longer, as most of its calls do with so little, every stream waits for.
    """

    def __init__(self, core: CausalCore, audio: np.ndarray):
        self.core, self.audio, self.at, self.done = core, audio, 0, 0
        hops = (core.waiting + audio.shape[1]) // core.hop
        self.out = np.empty((core.rows.slots, core.rows.channels, hops * core.hop), np.float32)
        # What comes out first belongs to the time before the beginning.
        before = core.taken - core.waiting
        self.early = min(hops * core.hop, max(0, core.latency - core.hop - before))
        core.taken += audio.shape[1]

    def fill(self) -> bool:
        """Takes what is still missing for a hop; True if it is complete."""
        core = self.core
        count = min(core.hop - core.waiting, self.audio.shape[1] - self.at)
        if count:
            core.pending[:, core.waiting : core.waiting + count] = self.audio[:, self.at : self.at + count]
        self.at += count
        core.waiting += count
        return core.waiting == core.hop

    def take(self, stems: np.ndarray) -> None:
        """A hop, [channels, slots, hop]."""
        hop, order = self.core.hop, self.core.order
        # Mostly they are in order, and then not copied one by one.
        rows = slice(None) if order == sorted(order) else order
        self.out[rows, :, self.done : self.done + hop] = stems.swapaxes(0, 1)
        self.done += hop
        self.core.waiting = 0


def push_together(audio: Mapping[CausalCore, np.ndarray]) -> dict[CausalCore, np.ndarray]:
    """`Core.push` of several streams of the same rows: hops that are complete are computed in one step."""
    turns = {core: _Turn(core, block) for core, block in audio.items()}
    rows = next(iter(turns)).rows
    with rows.engine.computing(rows.threads):
        while ready := [turn for turn in turns.values() if turn.fill()]:
            ready.sort(key=lambda turn: turn.core.row)
            hops = torch.from_numpy(np.stack([turn.core.pending for turn in ready]))
            out = rows.step([turn.core.row for turn in ready], hops.to(rows.engine.device)).cpu()
            for turn, stems in zip(ready, out.numpy(), strict=True):
                turn.take(stems)
    return {core: turn.out[..., turn.early :] for core, turn in turns.items()}
