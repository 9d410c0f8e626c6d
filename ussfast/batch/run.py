"""A collection of files through a pool of workers, each with a device of its own, by Ray Data."""

import os
import pickle
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from math import ceil
from typing import TYPE_CHECKING, Any

from ussfast.batch.cluster import STORE_BYTES, Machines, started
from ussfast.batch.ledger import Ledger
from ussfast.batch.listing import Item
from ussfast.batch.report import Report
from ussfast.batch.task import Row, Task
from ussfast.batch.worker import Worker, packed, unpacked
from ussfast.errors import DeviceError, InputError, UssfastError

if TYPE_CHECKING:
    from ussfast.separator import Separator

MOST_SHARD = 256  # files
SHARDS_PER_WORKER = 16  # at least, where there are as many files, so that all end at about the same time
QUEUED = 8  # shards per worker from which on each has two at a time
LOOK_AHEAD = 1 << 16  # files that are counted before it is settled how large shards are
GPU_JOBS = 8  # files at once on a GPU, so that there are windows to fill its batches
ENDING_SECONDS = 20.0  # after an interrupt, for workers to end their windows

Rows = Generator[dict[str, Any], None, None]
Tell = Callable[[int, float, int], Any]  # files that are done, seconds of audio, files in all


@dataclass(frozen=True)
class Pool:
    """How many work on what.

    workers: processes, each with a core, or with a GPU; None for as many as there are.
    jobs: files that a worker has under way at the same time; None for 1 on a CPU and GPU_JOBS on a GPU.
    address: of a Ray cluster, "auto" for the one that this machine is part of; None for a Ray of our own.
    device: "auto", "cpu" or "cuda". Which GPU, Ray says.
    """

    workers: int | None = None
    jobs: int | None = None
    address: str | None = None
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.device not in ("auto", "cpu", "cuda"):
            raise DeviceError(f"device must be auto, cpu or cuda here, for Ray gives out GPUs; got {self.device!r}")

    def chosen(self, there: Machines) -> "Pool":
        """Without anything left open, for what there is. Raises InputError, DeviceError."""
        gpu = self.device == "cuda" or (self.device == "auto" and there.gpus > 0 and self._can_use_gpus())
        most, what = (there.gpus, "GPUs") if gpu else (there.cpus, "cores")
        if gpu and not most:
            raise DeviceError("device 'cuda' is not available: Ray has found no GPU; use cpu")
        workers = self.workers or max(1, most)
        if workers > most:
            raise InputError(f"{workers} workers need as many {what}, and Ray has {most}")
        return Pool(workers, self.jobs or (GPU_JOBS if gpu else 1), self.address, "cuda" if gpu else "cpu")

    def _can_use_gpus(self) -> bool:
        import torch

        return self.address is not None or torch.cuda.is_available()

    @property
    def cpus(self) -> int:
        """That a Ray of our own is told of."""
        return max(self.workers or 1, 1) if self.workers else len(os.sched_getaffinity(0))


EVERYTHING = Pool()


def run(
    groups: Iterable[list[Item]],
    task: Task,
    make: "Callable[[], Separator]",
    report: Report,
    pool: Pool = EVERYTHING,
    tell: Tell = lambda files, seconds, count: None,
) -> Report:
    """Separates all files; a file that fails is a row of the report, and the others go on.

    Args:
        groups: see `Listing`.
        task: what is done with each file.
        make: the separator, on the CPU, for the workers to have copies of; called once there is a file to separate.
        report: takes the rows; closed at the end, after an interrupt, too.
        tell: called about once a second.
    Raises:
        InputError, DeviceError: a pool that there cannot be.
        UssfastError: Ray does not start, or workers cannot work at all.
    """
    groups, some = _looked_into(groups)
    if not some:  # nothing to wait for Ray for
        report.summary.inputs = sum(map(len, groups := list(groups)))
        for number, group in enumerate(groups):
            report.add(number, [Row.failed(item.source, item.error or "", item.exit_code) for item in group])
        report.close(True)
        return report
    separator, complete = make(), False
    try:
        with started(pool.address, pool.cpus, _store_bytes(separator)) as machines:
            chosen = pool.chosen(machines)
            _work(groups, task, separator, report, chosen, tell)
        complete = True
    finally:
        report.close(complete)
    return report


def _looked_into(groups: Iterable[list[Item]]) -> tuple[Iterator[list[Item]], bool]:
    """The same groups, and whether there is a file among them."""
    groups, seen = iter(groups), list[list[Item]]()
    for group in groups:
        seen.append(group)
        if any(item.error is None for item in group):
            return chain(seen, groups), True
    return iter(seen), False


def shards(groups: Iterable[list[Item]], workers: int) -> Iterator[list[Item]]:
    """The same items, dealt out to workers: neither so many at a time that some wait at the end, nor one by one."""
    items = chain.from_iterable(groups)
    held = list(islice(items, LOOK_AHEAD))
    count, rest = len(held), list[Item]()
    for number, item in enumerate(chain(held, items), 1):
        rest.append(item)
        count = max(count, number)  # of those that are known of: the more there turn out to be, the larger the shards
        if len(rest) >= min(MOST_SHARD, ceil(count / (workers * SHARDS_PER_WORKER))):
            yield rest
            rest = []
    if rest:
        yield rest


def _store_bytes(separator: "Separator") -> int:
    weights = sum(t.numel() * t.element_size() for t in separator.engine.model.state_dict().values())
    return STORE_BYTES + 2 * weights


def _work(
    groups: Iterable[list[Item]], task: Task, separator: "Separator", report: Report, pool: Pool, tell: Tell
) -> None:
    import ray
    import ray.data

    get: Any = ray.get
    gpu, blocks = pool.device == "cuda", []
    for number, shard in enumerate(shards(groups, pool.workers or 1)):
        report.summary.inputs += len(shard)
        blocks.append(_table(number, packed(shard)))
    workers = min(pool.workers or 1, len(blocks))
    report.summary.workers = workers
    model = ray.put(_pickled(separator, pool.device))
    ledger = _ledger(ray, workers)
    settings = {"make": [model], "task": task, "ledger": ledger, "jobs": pool.jobs}
    # Of many shards the next one waits with its worker, so that Ray's 0.2 s between two cost nothing. Of few it does
    # not: with a busy worker it would wait while another is free.
    waiting = 2 if len(blocks) >= QUEUED * workers else 1
    crew = ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=waiting)
    needs: dict[str, Any] = {"num_gpus": 1} if gpu else {"num_cpus": 1}
    rows = ray.data.from_arrow(blocks).map_batches(
        Worker, fn_constructor_kwargs=settings, compute=crew, batch_size=1, zero_copy_batch=True, **needs
    )

    def say() -> None:
        files, seconds = get(ledger.state.remote())
        tell(files, seconds, report.summary.inputs)

    with closing(_as_they_come(rows, say, lambda: get(ledger.stop.remote(), timeout=ENDING_SECONDS))) as coming:
        for batch in coming:
            for shard, data, fault in zip(batch["shard"], batch["rows"], batch["fault"], strict=True):
                if fault:
                    raise UssfastError(str(fault))
                report.add(int(shard), unpacked(Row, data))
                ledger.close.remote(int(shard))


def _ledger(ray: Any, workers: int) -> Any:
    """On this machine, with room for every worker, which waits there for the end, and for what they say meanwhile."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, max_concurrency=4 * workers + 1000, scheduling_strategy=here)(Ledger).remote()


def _table(number: int, items: bytes) -> Any:
    import pyarrow

    return pyarrow.table({"shard": [number], "items": [items]})


def _pickled(separator: "Separator", device: str) -> bytes:
    """What makes a copy of it on that device: with its weights, for the model need not be on other machines."""
    from ussfast.engine.backends.networks import Exportedly
    from ussfast.engine.moving import sent

    separator.settings = replace(separator.settings, device=device)
    exported = isinstance(separator.engine.model, Exportedly)
    return pickle.dumps(partial(_same, separator) if exported else sent(separator))


def _same(separator: "Separator") -> "Separator":
    return separator


def _as_they_come(rows: Any, tell: Callable[[], None], stop: Callable[[], Any]) -> Rows:
    """Blocks of rows, in any order. They come through a thread, so that an interrupt need not wait for Ray.

    If not all are taken, `stop` is called, and workers end at their next window and leave nothing half-written.
    """
    ready: queue.Queue[Any] = queue.Queue()

    def consume() -> None:
        try:
            for batch in rows.iter_batches(batch_size=None, batch_format="numpy", prefetch_batches=0):
                ready.put(batch)
            ready.put(None)
        except BaseException as error:
            ready.put(error)

    consumer = threading.Thread(target=consume, name="ussfast-rows", daemon=True)
    consumer.start()
    due = time.monotonic() + 1
    try:
        while True:
            with suppress(queue.Empty):
                batch = ready.get(timeout=max(0.01, due - time.monotonic()))
                if batch is None:
                    return
                if isinstance(batch, BaseException):
                    raise UssfastError(f"Ray: {type(batch).__name__}: {batch}") from batch
                yield batch
            if time.monotonic() >= due:
                tell()
                due = time.monotonic() + 1
    finally:
        if consumer.is_alive():
            stop()
            consumer.join(ENDING_SECONDS)
