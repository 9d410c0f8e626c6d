"""What a worker does: shards of files in, rows about them out."""

import json
import pickle
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ussfast.batch.listing import Item
from ussfast.batch.task import Row, Task, separate_item
from ussfast.errors import UssfastError

if TYPE_CHECKING:
    from ussfast.separator import Separator

TELL_SECONDS = 5.0  # between two messages of how much is done
LOST = "its worker has ended twice while it was separated: the process crashed, or memory ran out"


class Stopped(BaseException):
    """The run has been interrupted; not an Exception, so that nothing takes it for its own."""


def packed(items: Sequence[Any]) -> bytes:
    """Items or rows as they travel: names that are no text are kept, and long paths that have much in common small."""
    return zlib.compress(json.dumps([vars(item) for item in items]).encode(), 1)


def unpacked(kind: Callable[..., Any], data: bytes) -> list[Any]:
    return [kind(**fields) for fields in json.loads(zlib.decompress(data))]


class Worker:
    """An actor of Ray Data's pool: one model on one device.

    Args:
        make: one reference, to what makes the separator, pickled.
        task: what is done with files.
        ledger: actor of a `Ledger`.
        jobs: files that are under way at the same time, so that their windows are computed together.
    """

    def __init__(self, make: list[Any], task: Task, ledger: Any, jobs: int):
        import ray
        import torch

        self._get: Callable[[Any], Any] = ray.get
        self._task, self._ledger, self._jobs = task, ledger, jobs
        self._stop, self._fault = threading.Event(), ""
        torch.set_num_threads(1)  # a core is a worker's
        try:
            self._separator: Separator = pickle.loads(ray.get(make[0]))()
        except Exception as error:  # of an actor that does not begin, Ray makes another, and another
            own = isinstance(error, UssfastError)
            self._fault = str(error) if own else f"a worker could not begin: {type(error).__name__}: {error}"
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        try:
            self._get(self._ledger.stopped.remote())
        except Exception:  # it is gone, and so is the run
            pass
        self._stop.set()

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """shard: numbers; items: of each shard, see `packed`. Returns rows for items, in their order, none where the
        run was stopped; fault: why this worker cannot work at all, "" if it can."""
        shards = [int(number) for number in batch["shard"]]
        rows = [self._shard(number, items) for number, items in zip(shards, batch["items"], strict=True)]
        faults = np.array([self._fault] * len(shards), object)
        return {"shard": np.array(shards), "rows": np.array([packed(some) for some in rows], object), "fault": faults}

    def _shard(self, shard: int, data: bytes) -> list[Row]:
        if self._fault or self._stop.is_set():
            return []
        items: list[Item] = unpacked(Item, data)
        known = self._get(self._ledger.open.remote(shard))
        rows: dict[int, Row] = dict(known.rows)
        for at in known.hopeless:
            rows[at] = Row.failed(items[at].source, str(UssfastError(f"{items[at].source}: {LOST}")), 1)
            self._get(self._ledger.end.remote(shard, at, rows[at]))

        def work(at: int) -> None:
            if at not in rows:
                rows[at] = self._file(shard, at, items[at])

        try:
            for at in sorted(known.suspects):  # alone, so that it is known which one it is
                work(at)
            if self._jobs == 1:
                for at in range(len(items)):
                    work(at)
            else:
                with ThreadPoolExecutor(self._jobs) as pool:
                    list(pool.map(work, range(len(items))))
        except Stopped:
            return []
        return [rows[at] for at in range(len(items))]

    def _file(self, shard: int, at: int, item: Item) -> Row:
        told, due = 0.0, time.monotonic() + TELL_SECONDS

        def progress(done: float, _: float | None) -> None:
            nonlocal told, due
            if self._stop.is_set():
                raise Stopped
            if time.monotonic() >= due:
                self._ledger.took.remote(done - told)
                told, due = done, time.monotonic() + TELL_SECONDS

        if self._stop.is_set():
            raise Stopped
        self._get(self._ledger.begin.remote(shard, at))
        row = separate_item(self._separator, self._task, item, progress)
        self._ledger.took.remote((row.seconds or 0.0) - told if row.status == "done" else -told)
        self._get(self._ledger.end.remote(shard, at, row))
        return row
