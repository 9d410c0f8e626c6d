"""How much the data folder holds, and what there is room for."""

import os
import shutil
import time
from pathlib import Path

from ussfast.serve.problems import Problem

SPARE = 64 << 20  # bytes of the disk that others are left
KNOWN_S = 2.0  # how long a sum over the folder is believed


class Space:
    """most: bytes that the folder `data` may hold. It is counted now and then, which belongs into a thread."""

    def __init__(self, data: Path, most: int):
        self._data, self._most = data, most
        self._used, self._counted = 0, -float("inf")

    def left(self) -> int:
        """Bytes that may come; below 0 if there are too many already."""
        now = time.monotonic()
        if now - self._counted > KNOWN_S:
            self._used, self._counted = used(self._data), now
        return min(self._most - self._used, shutil.disk_usage(self._data).free - SPARE)

    def check(self, needed: int) -> None:
        """Problem 507 where there is no room for so many more bytes."""
        if needed > self.left():
            raise Problem(507, "the data folder is full: wait until results expire, or remove jobs")

    def took(self, written: int) -> None:
        """So many bytes have come. Problem 507 where they were too many."""
        self._used += written
        self.check(0)


def used(folder: Path) -> int:
    """Bytes of all files under a folder."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_size
            except OSError:  # gone meanwhile
                continue
    return total
