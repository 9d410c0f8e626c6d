"""The blocks of live audio, and blocks of a file at the pace of a microphone."""

import time
from collections.abc import Callable, Iterable, Iterator

import numpy as np

LONGEST_BLOCK_S = 0.02


def block_seconds(hop_seconds: float) -> float:
    """The block in which audio comes to a session: its hop, unless it computes long windows at once."""
    return min(hop_seconds, LONGEST_BLOCK_S)


def at_pace(
    blocks: Iterable[np.ndarray],
    sample_rate: int,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[np.ndarray]:
    """Yields each block [channels, n] once its last sample would have been recorded.

    Times are counted from the first block on, so that lateness does not add up: blocks after a late one follow at
    once until the pace is reached again.
    """
    start, frames = clock(), 0
    for block in blocks:
        frames += block.shape[1]
        while (early := start + frames / sample_rate - clock()) > 0:
            sleep(early)
        yield block
