"""The network of a causal model from chunk to chunk of recordings; chunks of several are computed together."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from ussfast.engine.batching import Batches, Waiting
from ussfast.engine.graphs import Graphs, bucket
from ussfast.engine.lack import out_of_memory
from ussfast.engine.nested import like, tensors_of
from ussfast.errors import OutOfMemoryError
from ussfast.models.causal import CausalModel, Modulation, TrunkState

T = TypeVar("T")
Advanced = tuple[Tensor, TrunkState]  # masks [rows, sources, frames, bins, 2], and the state behind the chunk


@dataclass(eq=False)
class Chunk(Waiting):
    """spec: [rows, frames, bins]; modulation: of one item or of as many as there are rows; state: before it."""

    spec: Tensor
    modulation: Modulation
    state: TrunkState

    def fits(self, other: "Chunk") -> bool:
        """Prompts may differ, but not their number."""
        mine, theirs = ((c.spec.shape[1:], c.modulation.scale.shape[1:]) for c in (self, other))
        return mine == theirs

    @staticmethod
    def joined(batch: "Sequence[Chunk]") -> tuple[Tensor, Modulation, TrunkState]:
        rows = [len(chunk.spec) for chunk in batch]
        asked = [_expanded(chunk.modulation, count) for chunk, count in zip(batch, rows, strict=True)]
        return torch.cat([chunk.spec for chunk in batch]), _joined(asked), _joined([chunk.state for chunk in batch])

    @staticmethod
    def parts(out: Advanced, batch: "Sequence[Chunk]") -> list[Advanced]:
        masks, state = out
        found, at = list[Advanced](), 0
        for chunk in batch:
            end = at + len(chunk.spec)
            found.append((masks[at:end], _cut(state, at, end)))
            at = end
        return found


class Advancing:
    """`CausalModel.advance`, for many recordings.

    Args:
        graphs: that the network runs through, those of this model alone; None for none.
        autocast: as for `SpectralModel.separate`.
        most: chunks that are computed together.
    """

    def __init__(self, model: CausalModel, graphs: Graphs | None = None, autocast: bool = False, most: int = 1):
        self.model, self.graphs, self.autocast = model, Graphs(None) if graphs is None else graphs, autocast
        self._batches = Batches(self._begin, most) if most > 1 else None

    def present(self) -> AbstractContextManager[None]:
        """See `Engine.present`."""
        return nullcontext() if self._batches is None else self._batches.present()

    def __call__(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> Advanced:
        """Inside of `Engine.computing`."""
        if self._batches is None:
            return self._run(spec, modulation, state)
        found: list[Advanced] = self._batches.run([Chunk(spec, modulation, state)])
        return found[0]

    def _begin(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> Callable[[], Advanced]:
        try:
            with out_of_memory(spec.device):
                out = self._run(*self._filled(spec, modulation, state))
        except OutOfMemoryError:
            self.graphs.clear()  # their memory may be what lacks
            raise
        return lambda: out

    def _filled(
        self, spec: Tensor, modulation: Modulation, state: TrunkState
    ) -> tuple[Tensor, Modulation, TrunkState]:
        """As they are; for graphs with more rows, the last one again, so that few graphs serve all numbers of them."""
        more = bucket(len(spec)) - len(spec) if self.graphs.on else 0
        last = [(spec[-1:], _cut(modulation, -1, None), _cut(state, -1, None))] * more
        rows, asked, states = zip((spec, modulation, state), *last, strict=True)
        return (torch.cat(rows), _joined(asked), _joined(states)) if more else (spec, modulation, state)

    def _run(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> Advanced:
        return self.graphs.run("advance", self._advance, spec, modulation, state)

    def _advance(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> Advanced:
        with torch.autocast(spec.device.type, torch.bfloat16, enabled=self.autocast):
            return self.model.advance(spec, modulation, state)


def _expanded(modulation: Modulation, rows: int) -> Modulation:
    named = tensors_of(modulation)
    return like(modulation, {name: tensor.expand(rows, *tensor.shape[1:]) for name, tensor in named.items()})


def _joined(parts: Sequence[T]) -> T:
    """Rows of all of them; everything has rows first."""
    named = [tensors_of(part) for part in parts]
    return like(parts[0], {name: torch.cat([one[name] for one in named]) for name in named[0]})


def _cut(whole: T, first: int, end: int | None) -> T:
    return like(whole, {name: tensor[first:end] for name, tensor in tensors_of(whole).items()})
