"""What a server consists of, how it starts and how it ends."""

import asyncio
import os
import tempfile
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from ussfast.serve.metrics import Metrics
from ussfast.serve.problems import Problem
from ussfast.serve.settings import ServeSettings

if TYPE_CHECKING:
    from ussfast.separator import Separator


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
    """Attributes: settings; separator, None until it is loaded; metrics; parts by name; draining."""

    def __init__(self, settings: ServeSettings):
        self.settings, self.draining = settings, False
        self._separator: Separator | None = None
        self.parts: dict[str, Part] = {}
        self.metrics = Metrics()

    @property
    def separator(self) -> "Separator":
        """The model; Problem 503 until it is loaded."""
        if self._separator is None:
            raise Problem(503, "the model is being loaded", 2)
        return self._separator

    async def start(self) -> None:
        self.settings.data.mkdir(parents=True, exist_ok=True)
        folder = self.settings.data / "tmp"  # of uploads while they come in: the system's may be read-only or small
        folder.mkdir(exist_ok=True)
        tempfile.tempdir = os.fspath(folder)
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

    def reasons(self) -> dict[str, Any]:
        """Why it is not ready, by part; empty if it is."""
        if self.draining:
            return {"server": "draining"}
        if self._separator is None:
            return {"model": "being loaded"}
        return {name: lack for name, part in self.parts.items() if (lack := part.lacks()) is not None}
