"""What a server consists of, how it starts and how it ends."""

import asyncio
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from ussfast.serve.metrics import Metrics
from ussfast.serve.problems import Problem
from ussfast.serve.settings import ServeSettings
from ussfast.serve.store import Store

if TYPE_CHECKING:
    from ussfast.separator import Separator
    from ussfast.serve.jobs.running import Jobs
    from ussfast.serve.prompts.library import Library

log = logging.getLogger("ussfast.serve")


class Part(Protocol):
    """One of the things that a server does."""

    async def start(self) -> None:
        """Before the first request; goes on with what an earlier process left."""

    async def drain(self, seconds: float) -> None:
        """No new work from now on; returns when what is under way is done or safely put down, in this time at most."""

    async def stop(self) -> None:
        """After the last request."""

    def lacks(self) -> str | None:
        """Why nothing can be asked of it now; None if it is ready."""


class Server:
    """Attributes: settings; separator; store; metrics; parts by name, in the order in which they start; draining."""

    def __init__(self, settings: ServeSettings):
        self.settings, self.draining = settings, False
        self._separator: Separator | None = None
        self.parts: dict[str, Part] = {}
        self.metrics = Metrics()
        self._store: Store | None = None
        self._elsewhere: str | None = None  # where temporary files went before

    @property
    def separator(self) -> "Separator":
        """The model; Problem 503 until it is loaded."""
        if self._separator is None:
            raise Problem(503, "the model is being loaded", 2)
        return self._separator

    @property
    def store(self) -> Store:
        """From `start` to `stop`."""
        assert self._store is not None
        return self._store

    @property
    def jobs(self) -> "Jobs":
        part: Any = self.parts["jobs"]
        return part

    @property
    def library(self) -> "Library":
        part: Any = self.parts["prompts"]
        return part

    @property
    def temporary(self) -> Path:
        """Of uploads while they come in: the system's folder may be read-only or small."""
        return self.settings.data / "tmp"

    async def start(self) -> None:
        self._store = await asyncio.to_thread(Store, self.settings.data)
        shutil.rmtree(self.temporary, ignore_errors=True)  # what an earlier process left
        self.temporary.mkdir()
        self._elsewhere, tempfile.tempdir = tempfile.tempdir, os.fspath(self.temporary)
        self._separator = await asyncio.to_thread(self._load)
        for part in self.parts.values():
            await part.start()

    def _load(self) -> "Separator":
        from ussfast.separator import Separator

        chosen = self.settings
        return Separator(chosen.model, device=chosen.device, dtype=chosen.dtype, detector=chosen.detector)

    async def drain(self) -> None:
        """SIGTERM: what runs ends well, what is new is refused."""
        self.draining = True
        await asyncio.gather(*(part.drain(self.settings.drain_s) for part in self.parts.values()))

    async def stop(self) -> None:
        for part in reversed(self.parts.values()):
            with suppress(Exception):
                await part.stop()
        if self._store is not None:
            tempfile.tempdir = self._elsewhere
            self._store.close()
            self._store = None

    def reasons(self) -> dict[str, Any]:
        """Why it is not ready, by part; empty if it is."""
        if self.draining:
            return {"server": "draining"}
        if self._separator is None:
            return {"model": "being loaded"}
        return {name: lack for name, part in self.parts.items() if (lack := part.lacks()) is not None}
