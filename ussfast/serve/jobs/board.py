"""What is known of jobs while they wait and run, and who wants to know of it."""

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from ussfast.serve.jobs.process import Process
from ussfast.serve.jobs.records import Progress


@dataclass
class Board:
    """Of the event loop alone.

    waiting: ids, the next first. running: with the process that is at it. progress: of those. unwanted: those of them
    that were cancelled. draining: nothing more is begun.
    """

    waiting: deque[str] = field(default_factory=deque)
    running: dict[str, Process] = field(default_factory=dict)
    progress: dict[str, Progress] = field(default_factory=dict)
    unwanted: set[str] = field(default_factory=set)
    draining: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _watching: dict[str, set[asyncio.Event]] = field(default_factory=dict)

    def put(self, id: str, first: bool = False) -> None:
        """Lets a job wait for its turn."""
        self.waiting.appendleft(id) if first else self.waiting.append(id)
        self._news.set()

    async def next(self, seconds: float) -> str | None:
        """The job whose turn it is; None if there is none for so long, or no more is begun."""
        if not self.waiting and not self.draining:
            self._news.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._news.wait()
        return self.waiting.popleft() if self.waiting and not self.draining else None

    def drain(self) -> None:
        self.draining = True
        self._news.set()
        for id in list(self._watching):
            self.tell(id)

    def progressed(self, id: str, progress: Progress) -> None:
        if id in self.progress:  # it may be over by now
            self.progress[id] = progress
            self.tell(id)

    def tell(self, id: str) -> None:
        """Something about a job has changed."""
        for event in self._watching.get(id, ()):
            event.set()

    def watched(self, id: str) -> asyncio.Event:
        """Set whenever something about the job has changed; for `unwatched` at the end."""
        event = asyncio.Event()
        self._watching.setdefault(id, set()).add(event)
        return event

    def unwatched(self, id: str, event: asyncio.Event) -> None:
        self._watching[id].discard(event)
        if not self._watching[id]:
            del self._watching[id]
