"""Recordings of any length through models that carry on: blocks in, blocks of the sources out."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from ussfast.engine.engine import Engine


class Chunks(Protocol):
    """What carries on; taken: samples that were pushed."""

    taken: int

    def push(self, audio: Tensor) -> Tensor:
        """[rows, samples] at the model's rate, any number -> [rows, sources, samples that are complete now]."""

    def flush(self) -> Tensor:
        """The rest; nothing can be pushed after it."""


def carried_on(
    engine: "Engine", blocks: Iterable[np.ndarray], begin: Callable[[int], Chunks], seconds: float
) -> Iterator[np.ndarray]:
    """`Engine.separate` without windows.

    Args:
        begin: of so many frames, which are computed at once.
        seconds: the same, for memory's sake; results do not depend on it.
    """
    config, chunks = engine.model.config, None
    coming: deque[Callable[[], np.ndarray]] = deque()
    for block in blocks:
        if chunks is None:
            # More channels are computed for less time at once, and need no more memory.
            frames = round(seconds * config.sample_rate / config.stft.hop)
            chunks = begin(max(1, int(frames * engine.share(len(block)))))
        with engine.computing():
            out = chunks.push(engine.transfer.up(block))
            if out.numel():
                coming.append(engine.transfer.down(out))
        while len(coming) > engine.transfer.depth:
            yield coming.popleft()().swapaxes(0, 1)
    if chunks is not None and chunks.taken:
        with engine.computing():
            coming.append(engine.transfer.down(chunks.flush()))
    for wait in coming:
        yield wait().swapaxes(0, 1)
