"""What workers tell while they work: a small actor of Ray that outlives each of them."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

MOST_TRIES = 2


@dataclass
class _Shard:
    rows: dict[int, Any] = field(default_factory=dict)
    begun: dict[int, int] = field(default_factory=dict)  # files without a row, and how often


@dataclass(frozen=True)
class Known:
    """Of a shard that a worker begins: rows that there are already, files whose workers ended while they had them, and
    those of them that are not to be tried again."""

    rows: dict[int, Any]
    suspects: frozenset[int]
    hopeless: frozenset[int]


class Ledger:
    """Rows of shards that are under way, how much is done, and whether to stop.

    Rows stay until their shard is complete, so that a worker that ends loses nothing, and a file that ends its worker
    does so MOST_TRIES times at most.
    """

    def __init__(self) -> None:
        self._shards: dict[int, _Shard] = {}
        self._stop = asyncio.Event()
        self.seconds = 0.0
        self.files = 0

    async def open(self, shard: int) -> Known:
        found = self._shards.setdefault(shard, _Shard())
        suspects = frozenset(found.begun)
        return Known(dict(found.rows), suspects, frozenset(at for at in suspects if found.begun[at] >= MOST_TRIES))

    async def begin(self, shard: int, at: int) -> None:
        begun = self._shards[shard].begun
        begun[at] = begun.get(at, 0) + 1

    async def end(self, shard: int, at: int, row: Any) -> None:
        found = self._shards[shard]
        found.begun.pop(at, None)
        found.rows[at] = row
        self.files += 1

    async def close(self, shard: int) -> None:
        self._shards.pop(shard, None)

    async def took(self, seconds: float) -> None:
        """Seconds of audio more are done."""
        self.seconds += seconds

    async def state(self) -> tuple[int, float]:
        """Files, and seconds of audio, that are done."""
        return self.files, self.seconds

    async def stop(self) -> None:
        self._stop.set()

    async def stopped(self) -> None:
        """Returns when it is time to stop."""
        await self._stop.wait()
