"""Recordings of any length through a detector: windows that overlap, and the mean of what they say."""

from collections.abc import Iterable, Iterator

import numpy as np


def cut(blocks: Iterable[np.ndarray], length: int, step: int, grid: int) -> Iterator[tuple[int, np.ndarray]]:
    """Windows of a recording, with memory for one of them and a block.

    Args:
        blocks: [channels, samples] in order, of any length.
        length: of a window in samples. What is not longer is one window.
        step: from one window to the next, a multiple of `grid`, at most `length`.
        grid: windows begin at multiples of this. The last one ends with the recording: it begins earlier than it would
            otherwise, and is by less than `grid` shorter.
    Yields:
        (where it begins, [channels, samples]); no window of no samples.
    """
    held, start, due = None, 0, 0
    for block in blocks:
        held = block if held is None else np.concatenate((held, block), 1)
        # Only where the recording goes on behind it: the window at the end is the last one.
        while start + held.shape[1] > due + length:
            # From here on the last window may begin.
            held, start = held[:, due - start :], due
            yield due, held[:, :length]
            due += step
    if held is None or not held.shape[1]:
        return
    last = max(0, -(-(start + held.shape[1] - length) // grid) * grid)
    yield last, held[:, last - start :]


class Mean:
    """Rows of windows that overlap: the mean of those that are of the same time, as soon as it is known."""

    def __init__(self, labels: int):
        self._first = 0
        self._total, self._count = np.zeros((0, labels), np.float32), np.zeros((0, 1), np.float32)

    def push(self, first: int, rows: np.ndarray) -> np.ndarray:
        """Takes [rows, labels] that begin at row `first`, not before those of the last call; returns what is before."""
        ready = self._taken(first - self._first)
        more = max(0, len(rows) - len(self._total))
        self._total = np.pad(self._total, ((0, more), (0, 0)))
        self._count = np.pad(self._count, ((0, more), (0, 0)))
        self._total[: len(rows)] += rows
        self._count[: len(rows)] += 1
        return ready

    def flush(self) -> np.ndarray:
        """The rest."""
        return self._taken(len(self._total))

    def _taken(self, count: int) -> np.ndarray:
        ready = self._total[:count] / self._count[:count]
        self._total, self._count = self._total[count:], self._count[count:]
        self._first += count
        return ready
