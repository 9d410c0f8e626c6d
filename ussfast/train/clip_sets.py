"""Clips by their labels, for training that takes labels in turn, and for validation."""

from collections.abc import Iterator, Sequence

import numpy as np

from ussfast.data.clips import known_labels, unknown_label
from ussfast.data.pool import AudioPool
from ussfast.errors import InputError

QUIET = 1e-8  # mean square of a crop that counts as silent
FAINT = 0.01  # the same, as a share of its item's
TRIES = 8


class ClipSet:
    """A pool and the label of each of its items; those that are silent throughout have no place in `by_label`."""

    def __init__(self, pool: AudioPool, labels: Sequence[str | None]):
        self.pool, self.labels = pool, list(labels)
        self._power = [pool.power(i, 0, int(length)) for i, length in enumerate(pool.length)]
        self.by_label: dict[str | None, np.ndarray] = {}
        for label in dict.fromkeys(self.labels):
            own = [i for i, other in enumerate(self.labels) if other == label and self._power[i] > QUIET]
            if own:
                self.by_label[label] = np.array(own, np.int64)

    def check(self, names: Sequence[str], split: str, least: int = 1) -> None:
        """InputError unless there are clips of all these labels, and `least` labels."""
        for name in names:
            if name not in self.by_label:
                raise unknown_label(name, known_labels(self.pool.items), f"the {split} data has")
        if len(names) < least:
            raise InputError(f"training needs clips of {least} labels at least, got {', '.join(names) or 'none'}")

    def pick(self, rng: np.random.Generator, label: str | None, count: int) -> tuple[int, int]:
        """Item and offset of a crop of `count` samples that is not silent; a shorter item lies within the crop."""
        own = self.by_label[label]
        for _ in range(TRIES):
            index = int(own[rng.integers(len(own))])
            offset = round(rng.random() * (int(self.pool.length[index]) - count))
            if self.pool.power(index, offset, count) > max(QUIET, FAINT * self._power[index]):
                return index, offset
        return index, self.loudest(index, count)

    def loudest(self, index: int, count: int) -> int:
        """Where the crop of `count` samples begins that has most energy, in steps of a quarter of it."""
        last = int(self.pool.length[index]) - count
        offsets = [*range(0, last, max(1, count // 4)), last] if last > 0 else [0]
        return max(offsets, key=lambda offset: self.pool.power(index, offset, count))


def in_turn(rng: np.random.Generator, names: Sequence[str], count: int) -> Iterator[str]:
    """`count` of the names, all equally often: one shuffled list after the other, neighbours always different.

    At least two names.
    """
    last = None
    for _ in range(-(-count // len(names))):
        order = [names[i] for i in rng.permutation(len(names))]
        if order[0] == last:
            order[0], order[-1] = order[-1], order[0]
        last = order[-1]
        for name in order:
            if count > 0:
                yield name
            count -= 1
