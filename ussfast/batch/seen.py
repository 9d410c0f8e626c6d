"""Texts that have been seen: a set of millions that takes eight bytes for most of them."""

import hashlib

import numpy as np

_LOOSE = 1 << 16  # in an ordinary set, which takes ten times as much


class Seen:
    """A set of texts, by hashes of 64 bits: among 10^7 texts, two are taken for the same with a chance of 3 in 10^6."""

    def __init__(self) -> None:
        self._loose: set[int] = set()
        self._sorted: list[np.ndarray] = []  # each twice as long as the next one at least

    def add(self, text: str) -> bool:
        """Whether it is new."""
        data = hashlib.blake2b(text.encode(errors="surrogateescape"), digest_size=8).digest()
        number = int.from_bytes(data, "little")
        if number in self._loose or any(_within(row, number) for row in self._sorted):
            return False
        self._loose.add(number)
        if len(self._loose) >= _LOOSE:
            rows = [np.fromiter(self._loose, np.uint64, len(self._loose))]
            while self._sorted and len(self._sorted[-1]) < 2 * sum(map(len, rows)):
                rows.append(self._sorted.pop())
            self._sorted.append(np.sort(np.concatenate(rows)))
            self._loose.clear()
        return True


def _within(row: np.ndarray, number: int) -> bool:
    at = int(np.searchsorted(row, np.uint64(number)))
    return at < len(row) and int(row[at]) == number
