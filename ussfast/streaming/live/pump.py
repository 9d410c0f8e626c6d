"""A stream from its source through a session to where it goes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Protocol

import numpy as np

from ussfast.interrupts import held
from ussfast.separation import Separation
from ussfast.streaming.live.outputs import StemFiles
from ussfast.streaming.live.statistics import Statistics


class Pumped(Protocol):
    """A session, or what stands for one."""

    @property
    def latency(self) -> float: ...

    @property
    def hop_seconds(self) -> float: ...

    def push(self, chunk: Any, /) -> Separation: ...

    def flush(self) -> Separation: ...


def pump(
    blocks: Iterable[np.ndarray],
    session: Pumped,
    sample_rate: int,
    statistics: Statistics,
    files: StemFiles | None = None,
    put: Callable[[Separation], Any] | None = None,
) -> None:
    """Pushes all blocks through the session, one after the other.

    An interrupt while it waits for a block or in `put` leaves files with all that came in. One during a step takes
    effect after it, so that files of all stems stay equally long.

    Args:
        blocks: float32 [channels, n] at `sample_rate` in Hz; waiting for the next one is the iterator's business. An
            error of its own is raised again once all that came before it has been put out.
        statistics: is told of every step, and finished at the end.
        files: get every piece first, and are completed at the end, whatever ends the stream.
        put: gets every piece that is not empty; waits as long as whoever listens.
    """

    def step(work: Callable[[], Separation], samples: int) -> Separation:
        with held():
            piece = statistics.timed(work, samples / sample_rate)
            if files is not None:
                files.write(piece)
        return piece

    def deliver(piece: Separation) -> None:
        if put is not None and piece.stems.shape[-1]:
            put(piece)

    trouble: list[Exception] = []

    def arriving() -> Iterator[np.ndarray]:
        try:
            yield from blocks
        except Exception as error:
            trouble.append(error)

    with ExitStack() as stack:
        stack.callback(statistics.finish)
        if files is not None:
            stack.enter_context(files)
        try:
            for block in arriving():
                deliver(step(partial(session.push, block), block.shape[1]))
        except KeyboardInterrupt:
            if files is not None:
                step(session.flush, 0)
            raise
        deliver(step(session.flush, 0))
    if trouble:
        raise trouble[0]
