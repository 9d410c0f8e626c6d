"""Places of live streams in pools, by rate and channels; for the hub's thread alone."""

import time
from typing import TYPE_CHECKING

import numpy as np

from ussfast.prompts.bank import Plan
from ussfast.serve.streams.live import Live
from ussfast.serve.streams.protocol import MOST_PROMPTS, Asked
from ussfast.streaming.pool import SessionPool

if TYPE_CHECKING:
    from ussfast.separator import Separator

ROWS = 16  # channels of a pool: what is computed together costs less up to about so many
SPARE = 4  # kinds of streams whose last pool stays when it is empty


class Places:
    """Pools come as they are needed, and go when nobody is in them."""

    def __init__(self, separator: "Separator"):
        self._separator = separator
        self._pools: dict[tuple[int, int], list[SessionPool]] = {}
        self.lives: set[Live] = set()

    def join(self, live: Live, plan: Plan) -> None:
        """PromptError or InputError where the stream cannot be."""
        pool = self._with_room(live.asked)
        live.place = pool.join(plan)
        live.pool = pool
        live.labels = live.session.labels
        self.lives.add(live)

    def leave(self, live: Live) -> None:
        """Whose session has ended or is of no more use."""
        live.pool = None
        self.lives.discard(live)
        key = live.asked.sample_rate, live.asked.channels
        pools = [pool for pool in self._pools.get(key, ()) if len(pool)]
        if not pools and len(self._pools) <= SPARE:
            pools = self._pools.get(key, [])[:1]
        if pools:
            self._pools[key] = pools
        else:
            self._pools.pop(key, None)

    def give_up(self, pool: SessionPool) -> list[Live]:
        """Of what failed, nothing is used again; returns the streams that were in it."""
        lives = [live for live in self.lives if live.pool is pool]
        for pools in self._pools.values():
            if pool in pools:
                pools.remove(pool)
        for live in lives:
            self.leave(live)
        return lives

    def _with_room(self, asked: Asked) -> SessionPool:
        pools = self._pools.setdefault((asked.sample_rate, asked.channels), [])
        size = max(1, ROWS // asked.channels)
        for pool in pools:
            if len(pool) < size:
                return pool
        pools.append(
            self._separator.pool(size, asked.sample_rate, channels=asked.channels, max_prompts=MOST_PROMPTS, threads=1)
        )
        return pools[-1]

    def trial(self, asked: Asked, prompts: tuple[str, ...], seconds: float) -> float:
        """Seconds of work for one of audio of one channel, before there are any streams."""
        pool = self._with_room(asked)
        places = [pool.join(prompts) for _ in range(max(1, ROWS // 2 // asked.channels))]
        hop = hop_of(pool, places[0])
        noise = 0.1 * np.random.default_rng(0).standard_normal((asked.channels, hop)).astype(np.float32)
        chunks, times = dict.fromkeys(places, noise), []
        for _ in range(2 + round(seconds * asked.sample_rate / hop)):
            begun = time.perf_counter()
            pool.push(chunks)
            times.append(time.perf_counter() - begun)
        for place in places:
            pool.leave(place)
        audio_s = len(places) * asked.channels * hop / asked.sample_rate
        return float(np.median(times[2:] or times)) / audio_s


def hop_of(pool: SessionPool, place: int) -> int:
    """Frames of the stream's rate that are computed at once."""
    session = pool[place]
    return round(session.hop_seconds * session.sample_rate)
