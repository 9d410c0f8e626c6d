"""Jobs from their acceptance to their end, over restarts of workers and of the server."""

import asyncio
import logging
import shutil
import time
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ussfast.errors import UssfastError
from ussfast.serve.jobs.process import Died, Process
from ussfast.serve.jobs.records import Job, Progress, Records
from ussfast.serve.jobs.space import Space
from ussfast.serve.jobs.worker import Model
from ussfast.serve.problems import Problem, problem_of
from ussfast.serve.server import Server

MOST_DEATHS = 2  # of a worker at the same job
MOST_STARTS = 5  # of a job: it may be what ends the server
GRACE_S = 10.0  # for a job to stop at the next window before its process is ended
LOOK_S, SWEEP_S = 1.0, 30.0  # from one look at the worker, and at what has expired, to the next
log = logging.getLogger("ussfast.serve.jobs")


class Jobs:
    """The part of a server that works on files."""

    def __init__(self, server: Server):
        self._server, self._settings = server, server.settings
        self.folder = server.settings.data / "jobs"
        self.space = Space(server.settings.data, server.settings.max_data)
        self._waiting, self._news = deque[str](), asyncio.Event()
        self._running: dict[str, Process] = {}
        self._progress: dict[str, Progress] = {}
        self._changed: dict[str, set[asyncio.Event]] = {}
        self._unwanted = set[str]()  # cancelled while they run
        self._draining = False
        self._tasks = list[asyncio.Task[None]]()
        self._lacking: str | None = "no worker is ready yet"

    async def start(self) -> None:
        self.records = Records(self._server.store)
        self._server.metrics.count_jobs(self.records.counts)
        await asyncio.to_thread(self._recover)
        chosen = self._settings
        model = Model(chosen.model, chosen.device, chosen.dtype, chosen.detector, chosen.data / "tmp")
        self._processes = [Process(model) for _ in range(chosen.workers)]
        # Of their own: the loop's threads are few, and these wait long.
        self._threads = ThreadPoolExecutor(chosen.workers, "ussfast-worker")
        self._tasks = [asyncio.create_task(self._work(process)) for process in self._processes]
        self._tasks.append(asyncio.create_task(self._sweep()))

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
                self._waiting.append(job.id)
            self.records.change(job)
        known = self.records.ids()
        for folder in self.folder.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def lacks(self) -> str | None:
        return self._lacking

    def place(self, id: str) -> Path:
        return self.folder / id

    # What callers do

    def check_open(self) -> None:
        """Problem 503 where no job is taken now."""
        if self._draining:
            raise Problem(503, "the server is about to end: ask the next one", 5)
        if len(self._waiting) >= self._settings.max_jobs:
            raise Problem(503, f"{len(self._waiting)} jobs are waiting, no more are taken: try again later", 30)

    async def accept(self, job: Job) -> None:
        """From now on it will be done, whatever happens to this process; its files are in `place(job.id)`."""
        self.check_open()
        await asyncio.to_thread(self.records.add, job)
        self._waiting.append(job.id)
        self._news.set()

    def get(self, id: str) -> Job:
        """Problem 404 for one that there is not."""
        job = self.records.get(id)
        if job is None:
            raise Problem(404, "there is no such job, or its results have expired")
        return job

    def progress(self, id: str) -> Progress | None:
        return self._progress.get(id)

    async def cancel(self, id: str) -> Job:
        """The job as it is then: one that runs stops a little later."""
        job = self.get(id)
        if job.over:
            return job
        if id in self._running:
            if id not in self._unwanted:
                self._unwanted.add(id)
                process = self._running[id]
                process.cancel(id)
                asyncio.get_running_loop().call_later(GRACE_S, self._end, id, process)
            return self.get(id)
        with suppress(ValueError):
            self._waiting.remove(id)
        await self._finish(job.ended("cancelled", self._settings.results_s))
        return self.get(id)

    def _end(self, id: str, process: Process) -> None:
        if self._running.get(id) is process:
            process.kill()

    async def remove(self, id: str) -> None:
        """Cancels it, and forgets it."""
        job = await self.cancel(id)
        while not job.over:
            async with asyncio.timeout(2 * GRACE_S):
                async for job in self.watch(id):
                    pass
        await asyncio.to_thread(self.records.remove, [id])
        await asyncio.to_thread(shutil.rmtree, self.place(id), ignore_errors=True)

    async def watch(self, id: str, idle_s: float | None = None) -> AsyncIterator[Job]:
        """The job as it is now, and whenever something has changed; the last time when it is over.

        idle_s: after so long without a change, the job once more.
        """
        event = asyncio.Event()
        self._changed.setdefault(id, set()).add(event)
        try:
            while True:
                event.clear()
                job = self.get(id)
                yield job
                if job.over:
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(idle_s):
                        await event.wait()
        finally:
            self._changed[id].discard(event)
            if not self._changed[id]:
                del self._changed[id]

    # What is done

    async def _work(self, process: Process) -> None:
        delay = 1.0
        while not self._draining:
            if not process.alive:
                try:
                    await self._in_thread(process.start)
                    self._lacking, delay = None, 1.0
                except Died as error:
                    self._lacking = f"the worker does not start: {error}"
                    log.error("%s", self._lacking)
                    await asyncio.sleep(delay)
                    delay = min(30.0, 2 * delay)
                    continue
            if not self._waiting:
                self._news.clear()
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._news.wait()
                continue
            id = self._waiting.popleft()
            job = self.records.get(id)
            if job is not None and job.status == "queued":
                try:
                    await self._run(job, process)
                except Exception as error:  # ours: the next job has nothing to do with it
                    log.exception("job %s", id, exc_info=error)
                    with suppress(Exception):
                        await self._finish(job.ended("failed", self._settings.results_s, error=_told(error)))

    async def _run(self, job: Job, process: Process) -> None:
        loop = asyncio.get_running_loop()
        self._running[job.id] = process
        total = None if job.input is None else job.input["seconds"]
        self._progress[job.id] = Progress(0.0, total)
        try:
            job = replace(job, status="running", started=time.time(), starts=job.starts + 1)
            await asyncio.to_thread(self.records.change, job)
            self._tell(job.id)

            def progress(done_s: float, total_s: float | None, message: str | None) -> None:
                loop.call_soon_threadsafe(self._progressed, job.id, Progress(done_s, total_s or total, message))

            if job.id in self._unwanted:
                answer: tuple[Any, ...] = ("cancelled",)
            else:
                try:
                    answer = await self._in_thread(process.run, self._message(job), progress)
                except Died as error:
                    answer = ("died", str(error))
            done = await self._answered(job, answer)
        finally:
            del self._running[job.id]
            self._progress.pop(job.id, None)
            self._unwanted.discard(job.id)
        await self._finish(done)
        if done.status == "done" and done.finished is not None and done.started is not None:
            metrics = self._server.metrics
            metrics.job_seconds.observe(done.finished - done.started)
            metrics.job_audio.inc((done.input or {}).get("seconds") or 0.0)

    async def _answered(self, job: Job, answer: tuple[Any, ...]) -> Job:
        """The job with what came of it."""
        keep, folder = self._settings.results_s, self.place(job.id)
        match answer:
            case ("done", facts):
                return await self._kept(job, facts)
            case ("failed", status, detail):
                return job.ended("failed", keep, error=Problem(status, detail).as_dict())
            case ("cancelled",):
                return job.ended("cancelled", keep)
        how = answer[1]
        await asyncio.to_thread(shutil.rmtree, folder / "work", ignore_errors=True)
        if job.id in self._unwanted:
            return job.ended("cancelled", keep)
        if self._draining:  # the next server does it
            return replace(job, status="queued", started=None, starts=job.starts - 1)
        log.error("the worker ended (%s) at job %s", how, job.id)
        job = replace(job, deaths=job.deaths + 1, status="queued", started=None)
        if job.deaths < MOST_DEATHS:
            return job
        text = f"the process that worked on it ended {job.deaths} times ({how}): it may need more memory than there is"
        return job.ended("failed", keep, error=Problem(500, text).as_dict())

    async def _kept(self, job: Job, facts: dict[str, Any]) -> Job:
        """The job with its results where they stay."""
        folder, keep = self.place(job.id), self._settings.results_s
        warnings = tuple(facts["warnings"])
        try:
            if job.kind == "separation":
                await asyncio.to_thread(_moved, folder / "work", folder / "outputs")
                media = job.asked["media_type"]
                outputs = tuple(one | {"media_type": media} for one in facts["outputs"])
                given = None if job.input is None else job.input | {"seconds": facts["seconds"]}
                return job.ended("done", keep, outputs=outputs, warnings=warnings, input=given)
            assert job.prompt is not None
            await self._server.library.keep(job.prompt, folder / "work" / "prompt.safetensors")
            await asyncio.to_thread(shutil.rmtree, folder / "work", ignore_errors=True)
        except (UssfastError, OSError) as error:
            return job.ended("failed", keep, error=_told(error))
        return job.ended("done", keep, warnings=warnings)

    def _message(self, job: Job) -> dict[str, Any]:
        folder = self.place(job.id)
        files = [{"name": file["name"], "path": str(folder / file["file"])} for file in job.files]
        banks = [str(folder / name) for name in job.asked.get("banks", ())]
        if job.kind == "tune":  # their clips are what it is told from
            banks = self._server.library.banks()
        most = self._settings.max_audio_s if job.kind == "separation" else self._settings.max_clip_s
        more = {"banks": banks, "most_s": most, "most_bytes": self.space.left()}
        return job.asked | more | {"id": job.id, "kind": job.kind, "files": files, "folder": str(folder / "work")}

    async def _finish(self, job: Job) -> None:
        """Keeps how a job is now that nobody works on it."""
        await asyncio.to_thread(self.records.change, job)
        if job.status == "queued" and not self._draining:
            self._waiting.appendleft(job.id)
            self._news.set()
        self._tell(job.id)

    def _progressed(self, id: str, progress: Progress) -> None:
        if id in self._progress:
            self._progress[id] = progress
            self._tell(id)

    def _tell(self, id: str) -> None:
        for event in self._changed.get(id, ()):
            event.set()

    async def _sweep(self) -> None:
        """Removes what has expired."""
        while True:
            ids = self.records.expired(time.time())
            if ids:
                await asyncio.to_thread(self.records.remove, ids)
                for id in ids:
                    await asyncio.to_thread(shutil.rmtree, self.place(id), ignore_errors=True)
            await asyncio.sleep(min(SWEEP_S, self._settings.results_s))

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    # The end

    async def drain(self, seconds: float) -> None:
        self._draining = True
        self._news.set()
        for event in [event for events in self._changed.values() for event in events]:
            event.set()
        until = time.monotonic() + seconds
        while self._running and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for process in self._processes:
            process.close()
        await asyncio.gather(*self._tasks[:-1], return_exceptions=True)

    async def stop(self) -> None:
        await self.drain(0.0)
        self._tasks[-1].cancel()
        self._threads.shutdown(wait=False)


def _moved(work: Path, outputs: Path) -> None:
    shutil.rmtree(outputs, ignore_errors=True)
    work.rename(outputs)


def _told(error: Exception) -> dict[str, Any]:
    return (Problem(507, "the results could not be kept") if isinstance(error, OSError) else problem_of(error)).as_dict()
