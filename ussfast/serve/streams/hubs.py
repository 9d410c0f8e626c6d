"""As many hubs as there are threads for live streams: each stream is one's as long as it lasts."""

import asyncio
from collections import Counter
from collections.abc import Callable

from ussfast.prompts.bank import Prompt
from ussfast.serve.streams.admission import Load
from ussfast.serve.streams.hub import Hub
from ussfast.serve.streams.live import Live
from ussfast.serve.streams.protocol import Asked


class Hubs:
    """For the loop's thread.

    Their threads compute at the same time, for most of a turn is one call that leaves Python's lock to others.

    Args:
        count: how many. load: of all of them. make: one.
    """

    def __init__(self, count: int, load: Load, make: Callable[[], Hub]):
        self._load = load
        self._all = tuple(make() for _ in range(count))
        self._channels = Counter[Hub]()

    def start(self) -> None:
        for hub in self._all:
            hub.start()

    def stop(self) -> None:
        for hub in self._all:
            hub.stop()

    @property
    def alive(self) -> bool:
        return all(hub.alive for hub in self._all)

    def take(self, live: Live) -> None:
        """Gives a stream the hub that has least to do."""
        live.hub = min(self._all, key=lambda hub: self._channels[hub])
        self._channels[live.hub] += live.asked.channels
        self._load.take(live.asked.channels)

    def release(self, live: Live) -> None:
        self._load.release(live.asked.channels)
        self._channels[live.hub] -= live.asked.channels

    async def swap(self, prompt: Prompt) -> None:
        """See `Hub.swap`."""
        await asyncio.gather(*(hub.call(hub.swap, prompt) for hub in self._all))

    async def trial(self, asked: Asked, prompts: tuple[str, ...], seconds: float) -> None:
        """See `Hub.trial`. All at the same time, as they will work."""
        await asyncio.gather(*(hub.call(hub.trial, asked, prompts, seconds) for hub in self._all))
