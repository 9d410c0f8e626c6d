"""The thread that writes what streams remember, so that nothing that computes or answers waits for a disk."""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ussfast.errors import OutputError, UssfastError
from ussfast.serve.streams import folders
from ussfast.serve.streams.asking import done_by
from ussfast.serve.streams.folders import Folder
from ussfast.serve.streams.live import Live, Out, Recorded, Taken
from ussfast.serve.streams.protocol import Asked, text_of

if TYPE_CHECKING:
    from ussfast.prompts.bank import Plan
    from ussfast.serve.metrics import StreamMetrics

T = TypeVar("T")
log = logging.getLogger("ussfast.serve")


class Keeper:
    """Folders of streams under `root`. Its work is done in order, in a thread of its own."""

    def __init__(self, root: Path, metrics: "StreamMetrics", loop: asyncio.AbstractEventLoop):
        self.root, self._metrics, self._loop = root, metrics, loop
        self._queue: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._folders: dict[Live, Folder] = {}
        self._pending: set[Live] = set()  # whose snapshot is not written yet
        self._thread = threading.Thread(target=self._run, name="ussfast snapshots", daemon=True)

    def start(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """After all that was asked for is written."""
        self._queue.put(None)
        self._thread.join(30)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns in this thread, after all that came before."""
        return await done_by(self._queue, function, *arguments)

    def _run(self) -> None:
        while (work := self._queue.get()) is not None:
            try:
                work()
            except UssfastError as error:
                log.error("what a stream remembers could not be written: %s", error)
            except Exception:
                log.exception("what a stream remembers could not be written")

    # Any thread.

    def snapshot(self, live: Live, taken: Taken) -> None:
        """Writes it, and tells the client; left out while the one before is not written yet."""
        if live not in self._pending:
            self._pending.add(live)
            self._queue.put(lambda: self._snapshot(live, taken))

    def _snapshot(self, live: Live, taken: Taken) -> None:
        self._pending.discard(live)
        if (folder := self._folders.get(live)) is not None:
            folder.add(taken)
            self._metrics.snapshots.inc()
            self._tell(live, Out(text_of("saved", input=taken.input, output=taken.output)))

    def changed(self, live: Live, change: Recorded, answer: str) -> None:
        """Writes a change of prompts, then answers it."""
        self._queue.put(lambda: self._changed(live, change, answer))

    def _changed(self, live: Live, change: Recorded, answer: str) -> None:
        if (folder := self._folders.get(live)) is not None:
            folder.changes.append(change)
            folder.write()
        self._tell(live, Out(answer))

    def say(self, live: Live, out: Out) -> None:
        """Tells the client when all that came before is written."""
        self._queue.put(lambda: self._tell(live, out))

    def ack(self, live: Live, received: int) -> None:
        self._queue.put(lambda: self._with(live, lambda folder: folder.ack(received)))

    def _with(self, live: Live, function: Callable[[Folder], None]) -> None:
        if (folder := self._folders.get(live)) is not None:
            function(folder)

    def _tell(self, live: Live, out: Out) -> None:
        self._loop.call_soon_threadsafe(lambda: live.send(out))

    # In this thread, through `run`.

    def begin(self, live: Live, asked: Asked, plan: "Plan") -> None:
        self._folders[live] = Folder.make(self.root / live.id, asked, plan)

    def find(self, name: str) -> Folder:
        """Of a stream that is not connected; InputError if there is none."""
        return Folder.read(self.root / name)

    def go_on(self, live: Live, folder: Folder, more: tuple[Recorded, ...]) -> None:
        """A stream is connected again; more: changes that nobody wrote down yet."""
        folder.changes += more
        folder.write()
        self._folders[live] = folder

    def put_down(self, live: Live, taken: Taken | None) -> None:
        """The connection is gone; the stream can be gone on with."""
        folder = self._folders.pop(live, None)
        if folder is None:
            return
        try:
            if taken is not None:
                folder.add(taken)
                self._metrics.snapshots.inc()
        except OutputError as error:
            log.error("a stream goes on from an older snapshot, if at all: %s", error)
        folder.touch()

    def end(self, live: Live) -> None:
        """Nothing is needed any more."""
        folder = self._folders.pop(live, None)
        if folder is not None:
            folders.remove(folder.path)

    def sweep(self, older_s: float) -> None:
        """Removes streams that nobody went on with for so long."""
        used = {folder.path for folder in self._folders.values()}
        for path in folders.folders(self.root):
            if path not in used and folders.age(path) > older_s:
                folders.remove(path)
