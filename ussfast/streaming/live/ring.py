"""A queue of samples between two threads."""

import numpy as np


class Ring:
    """A bounded queue of samples for one writing and one reading thread; neither ever waits.

    Args:
        channels: of the samples.
        capacity: in frames.
    """

    def __init__(self, channels: int, capacity: int):
        self.channels = channels
        self._data = np.zeros((channels, capacity), np.float32)
        self._written = self._read = 0  # frames since the beginning; each thread changes only its own

    def __len__(self) -> int:
        """Frames that can be read."""
        return self._written - self._read

    def write(self, samples: np.ndarray) -> int:
        """Takes float [channels, n]; returns how many frames there was room for."""
        capacity = self._data.shape[1]
        count = min(samples.shape[1], capacity - len(self))
        start = self._written % capacity
        first = min(count, capacity - start)
        self._data[:, start : start + first] = samples[:, :first]
        self._data[:, : count - first] = samples[:, first:count]
        self._written += count
        return count

    def read(self, out: np.ndarray) -> int:
        """Fills the beginning of `out` [channels, n]; returns how many frames there were."""
        capacity = self._data.shape[1]
        count = min(out.shape[1], len(self))
        start = self._read % capacity
        first = min(count, capacity - start)
        out[:, :first] = self._data[:, start : start + first]
        out[:, first:count] = self._data[:, : count - first]
        self._read += count
        return count

    def skip(self, frames: int) -> int:
        """Leaves out what would be read next; returns how many frames there were. For the reading thread."""
        count = min(frames, len(self))
        self._read += count
        return count
