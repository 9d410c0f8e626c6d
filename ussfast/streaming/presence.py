"""Shares of the mixture in a stream whose prompts change."""

from collections.abc import Sequence

import numpy as np

from ussfast.audio.remix import Remix


class Presence:
    """How far the source of every slot is there: 1, 0, or on its way while prompts change, so that nothing jumps.

    All go in straight lines of the same length, so that the sum is always that of some number of sources.

    Args:
        remix: what is done to stems.
        slots: that there are.
    """

    def __init__(self, remix: Remix, slots: int):
        self.remix = remix
        self._now = self._then = np.zeros(slots, np.float32)
        self._left = 0  # samples until `_then`

    def begin(self, slots: Sequence[int]) -> None:
        """Sources are there, in these slots and no others."""
        self.change(slots, 0)

    def change(self, slots: Sequence[int], samples: int) -> None:
        """They will be in so many samples."""
        self._then = np.zeros_like(self._now)
        self._then[list(slots)] = 1
        self._left = samples
        if not samples:
            self._now = self._then

    def apply(self, stems: np.ndarray, mixture: np.ndarray, slots: Sequence[int]) -> np.ndarray:
        """`Remix` of the next samples: stems [slots, channels, samples] of those slots that are or were in use."""
        if not self.remix:
            return stems
        count, rows = stems.shape[-1], list(slots)
        if not self._left:
            return self.remix(stems, mixture, self._now[rows, None])
        way = np.minimum(np.arange(1, count + 1, dtype=np.float32) / self._left, 1)
        path = self._now[:, None] + (self._then - self._now)[:, None] * way
        if count:
            self._now = path[:, -1]
        self._left = max(0, self._left - count)
        return self.remix(stems, mixture, path[rows])
