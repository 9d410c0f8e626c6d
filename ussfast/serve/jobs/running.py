"""Jobs from their acceptance to their end, over restarts of workers and of the server."""

import asyncio
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ussfast.serve.jobs import worker
from ussfast.serve.jobs.board import Board
from ussfast.serve.jobs.probing import Prober
from ussfast.serve.jobs.process import Process
from ussfast.serve.jobs.records import Job, Progress, Records
from ussfast.serve.jobs.space import Space
from ussfast.serve.jobs.turns import Turns
from ussfast.serve.problems import Problem
from ussfast.serve.server import Server

MOST_STARTS = 5  # of a job: it may be what ends the server
GRACE_S = 10.0  # for a job to stop at the next window before its process is ended
SWEEP_S = 30.0  # from one look at what has expired to the next
log = logging.getLogger("ussfast.serve.jobs")


class Jobs:
    """The part of a server that works on files.

    Attributes: records, from `start` on; board; space; prober; folder, of a folder for each job.
    """

    records: Records

    def __init__(self, server: Server):
        self._server, self._settings = server, server.settings
        self.folder = server.settings.data / "jobs"
        self.space = Space(server.settings.data, server.settings.max_data)
        self.board, self.prober = Board(), Prober(server.temporary)
        self._turns, self._tasks = list[Turns](), list[asyncio.Task[None]]()
        self._sweeping: asyncio.Task[None] | None = None
        # Of their own: the loop's threads are few, and these wait long.
        self._threads = ThreadPoolExecutor(server.settings.workers, "ussfast-worker")

    async def start(self) -> None:
        self.records = Records(self._server.store)
        self._server.metrics.count_jobs(self.records.counts)
        await asyncio.to_thread(self._recover)
        chosen = self._settings
        temporary = self._server.temporary
        model = worker.Model(chosen.model, chosen.device, chosen.dtype, chosen.detector, temporary, chosen.nice)
        for _ in range(chosen.workers):
            turns = Turns(self._server, Process(worker.main, model), self._threads)
            self._turns.append(turns)
            self._tasks.append(asyncio.create_task(turns.work()))
        self._sweeping = asyncio.create_task(self._sweep())

    def _recover(self) -> None:
        """What another process left: its jobs begin again, unless their callers are gone."""
        self.folder.mkdir(exist_ok=True)
        for job in self.records.unfinished():
            if job.attached:
                job = job.ended("cancelled", self._settings.results_s)
            elif job.starts >= MOST_STARTS:
                text = f"the server ended {job.starts} times while it was at this job"
                job = job.ended("failed", self._settings.results_s, error=Problem(500, text).as_dict())
            else:
                job = replace(job, status="queued", started=None)
                self.board.put(job.id)
            self.records.change(job)
        known = self.records.ids()
        for folder in self.folder.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def lacks(self) -> str | None:
        if not os.access(self.folder, os.W_OK):
            return f"{self.folder} cannot be written"
        return next((turns.lacking for turns in self._turns if turns.lacking is not None), None)

    def place(self, id: str) -> Path:
        """The folder of a job."""
        return self.folder / id

    def check_open(self) -> None:
        """Problem 503 where no job is taken now."""
        if self.board.draining or self._server.draining:
            raise Problem(503, "the server is about to end: ask the next one", 5)
        if (count := len(self.board.waiting)) >= self._settings.max_jobs:
            raise Problem(503, f"{count} jobs are waiting, no more are taken: try again later", 30)

    async def accept(self, job: Job) -> None:
        """From now on it will be done, whatever happens to this process; its files are in `place(job.id)`."""
        self.check_open()
        await asyncio.to_thread(self.records.add, job)
        self.board.put(job.id)
        log.info("job %s: %s, accepted", job.id, job.kind)

    def get(self, id: str) -> Job:
        """Problem 404 for one that there is not."""
        job = self.records.get(id)
        if job is None:
            raise Problem(404, "there is no such job, or its results have expired")
        return job

    def progress(self, id: str) -> Progress | None:
        return self.board.progress.get(id)

    async def cancel(self, id: str) -> Job:
        """The job as it is then: one that runs stops a little later."""
        job, board = self.get(id), self.board
        if job.over:
            return job
        if id in board.waiting:
            board.waiting.remove(id)
            job = job.ended("cancelled", self._settings.results_s)
            await asyncio.to_thread(self.records.change, job)
            board.tell(id)
        elif id not in board.unwanted:
            board.unwanted.add(id)
            if (process := board.running.get(id)) is not None:
                process.cancel(id)
                asyncio.get_running_loop().call_later(GRACE_S, self._end, id, process)
        return self.get(id)

    def _end(self, id: str, process: Process) -> None:
        if self.board.running.get(id) is process:
            process.kill()

    async def remove(self, id: str) -> None:
        """Cancels it, and forgets it."""
        job = await self.cancel(id)
        if not job.over:
            with suppress(TimeoutError):
                async with asyncio.timeout(3 * GRACE_S):
                    async for now in self.watch(id):
                        job = now
        if not job.over:
            raise Problem(503, "the job does not stop: try again later", GRACE_S)
        await self._forget([id])

    async def watch(self, id: str, idle_s: float | None = None) -> AsyncIterator[Job]:
        """The job as it is now, and whenever something may have changed; the last time when it is over, or removed.

        idle_s: after so long without a change, the job once more.
        """
        event = self.board.watched(id)
        try:
            while (job := self.records.get(id)) is not None:
                event.clear()
                yield job
                if job.over:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await event.wait()
        finally:
            self.board.unwatched(id, event)

    async def _sweep(self) -> None:
        """Removes what has expired."""
        while True:
            if ids := self.records.expired(time.time()):
                with suppress(Exception):  # it is tried again
                    await self._forget(ids)
            await asyncio.sleep(min(SWEEP_S, self._settings.results_s))

    async def _forget(self, ids: list[str]) -> None:
        await asyncio.to_thread(self.records.remove, ids)
        for id in ids:
            await asyncio.to_thread(shutil.rmtree, self.place(id), ignore_errors=True)
            self.board.tell(id)

    async def drain(self, seconds: float) -> None:
        """Jobs that run may end; what has not ended by then begins again in the next server."""
        self.board.drain()
        until = time.monotonic() + seconds
        while self.board.running and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for turns in self._turns:
            turns.process.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def stop(self) -> None:
        await self.drain(0.0)
        if self._sweeping is not None:
            self._sweeping.cancel()
        self.prober.close()
        self._threads.shutdown(wait=False)
