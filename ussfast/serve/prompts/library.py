"""Prompts of callers' clips: a bank each in the data folder, known to the separator of the server."""

import asyncio
import hashlib
import os
from pathlib import Path
from typing import Any

from ussfast.errors import UssfastError
from ussfast.serve.jobs.records import iso
from ussfast.serve.problems import Problem
from ussfast.serve.server import Server, log
from ussfast.serve.store import synced


class Library:
    """The part of a server that keeps prompts."""

    def __init__(self, server: Server):
        self._server, self.folder = server, server.settings.data / "prompts"

    async def start(self) -> None:
        await asyncio.to_thread(self._load)
        self._server.metrics.prompts.set_function(lambda: len(self._server.separator.prompts))

    def _load(self) -> None:
        self.folder.mkdir(exist_ok=True)
        for path in sorted(self.folder.glob("*.safetensors")):
            try:
                self._server.separator.load_prompts(path)
            except UssfastError as error:  # another model's: kept for when that is served again
                log.warning("a prompt is left out: %s", error)

    async def drain(self, seconds: float) -> None:
        pass

    async def stop(self) -> None:
        pass

    def lacks(self) -> str | None:
        return None

    def path(self, name: str) -> Path:
        """Of the bank of a prompt, whatever its name is made of."""
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.safetensors"

    def banks(self) -> list[str]:
        return [str(path) for name in self._made() if (path := self.path(name)).exists()]

    async def keep(self, name: str, bank: Path) -> None:
        """Takes a bank with this one prompt over, for new jobs and streams, and for those that ask for the name."""

        def take() -> Any:
            synced(bank)
            found = self._server.separator.load_prompts(bank)
            os.replace(bank, self.path(name))
            synced(self.folder)
            return found[0]

        prompt = await asyncio.to_thread(take)
        streams: Any = self._server.parts.get("streams")
        if streams is not None:
            streams.swap(prompt)

    async def remove(self, name: str) -> None:
        """Problem 404 for a name that there is not, 409 for a class prompt. Running streams keep the vector."""
        if self.get(name)["kind"] == "class":
            raise Problem(409, f"{name!r} is a class prompt: it comes with the model and stays")
        self._server.separator.prompts.remove(name)
        await asyncio.to_thread(self.path(name).unlink, missing_ok=True)

    def get(self, name: str) -> dict[str, Any]:
        """What there is to say of a prompt; Problem 404."""
        prompts = self._server.separator.prompts
        if name not in prompts:
            raise Problem(404, f"there is no prompt {name!r}")
        prompt = prompts[name]
        origin, created = prompt.origin, None
        if prompt.kind != "class" and (path := self.path(name)).exists():
            created = iso(path.stat().st_mtime)
        return {
            "name": name, "kind": prompt.kind, "clips": origin.count if origin else 0,
            "seconds": round(origin.seconds, 3) if origin else 0.0, "created": created,
        }  # fmt: skip

    def all(self) -> list[dict[str, Any]]:
        return [self.get(name) for name in self._server.separator.prompts]

    def _made(self) -> list[str]:
        return [one.name for one in self._server.separator.prompts.values() if one.kind != "class"]
