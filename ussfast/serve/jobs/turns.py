"""Jobs one after the other, in a worker's process."""

import asyncio
import logging
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from ussfast.errors import OutputError, UssfastError
from ussfast.serve.jobs.process import Died, Process
from ussfast.serve.jobs.records import Job, Progress
from ussfast.serve.problems import Problem, problem_of
from ussfast.serve.server import Server

MOST_DEATHS = 2  # of a worker at the same job
LOOK_S = 1.0  # from one look at whether the worker lives to the next
AGAIN_S = 1.0, 30.0  # first and longest wait before something that failed is tried again
log = logging.getLogger("ussfast.serve.jobs")


class Turns:
    """Attributes: process; lacking: why it takes no jobs, None if it does."""

    def __init__(self, server: Server, process: Process, threads: ThreadPoolExecutor):
        self._server, self.process, self._threads = server, process, threads
        self.lacking: str | None = "a worker is being started"

    async def work(self) -> None:
        """Until no more is begun."""
        board, delay = self._server.jobs.board, AGAIN_S[0]
        while not board.draining:
            if not self.process.alive:
                try:
                    await self._in_thread(self.process.start)
                except Died as error:
                    if self.process.closed:
                        return
                    self.lacking = f"a worker does not start: {error}"
                    log.error("%s", self.lacking)
                    await asyncio.sleep(delay)
                    delay = min(AGAIN_S[1], 2 * delay)
                    continue
                self.lacking, delay = None, AGAIN_S[0]
            if (id := await board.next(LOOK_S)) is not None:
                await self._turn(id)

    async def _turn(self, id: str) -> None:
        """One job, to its end or back into the queue; never raises."""
        jobs = self._server.jobs
        board, job = jobs.board, jobs.records.get(id)
        if job is None or job.over:
            return
        board.running[id] = self.process
        board.progress[id] = Progress(0.0, None if job.input is None else job.input["seconds"])
        try:
            done = await self._done(job)
        except Exception as error:  # a bug of ours: the next job has nothing to do with it
            log.exception("job %s", id, exc_info=error)
            done = self._failed(job, problem_of(error))
        finally:
            del board.running[id]
            board.progress.pop(id, None)
        await self._kept(done)
        if id in board.unwanted and not done.over:
            done = done.ended("cancelled", self._server.settings.results_s)
            await self._kept(done)
        board.unwanted.discard(id)
        if done.status == "queued" and not board.draining:
            board.put(id, first=True)
        board.tell(id)
        self._count(done)

    async def _kept(self, job: Job) -> None:
        """Writes how a job is now, also where the disk is full for a while."""
        delay = AGAIN_S[0]
        while True:
            try:
                return await asyncio.to_thread(self._server.jobs.records.change, job)
            except OutputError as error:
                log.error("job %s is %s: %s", job.id, job.status, error)
                if self._server.jobs.board.draining:  # the next server does it again
                    return
                await asyncio.sleep(delay)
                delay = min(AGAIN_S[1], 2 * delay)

    async def _done(self, job: Job) -> Job:
        """The job with what came of it."""
        jobs, board, keep = self._server.jobs, self._server.jobs.board, self._server.settings.results_s
        job = replace(job, status="running", started=time.time(), starts=job.starts + 1)
        try:
            await asyncio.to_thread(jobs.records.change, job)
        except OutputError as error:
            return self._failed(job, problem_of(error))
        board.tell(job.id)
        loop, total = asyncio.get_running_loop(), board.progress[job.id].total_s

        def progress(done_s: float, total_s: float | None, message: str | None) -> None:
            now = Progress(done_s, total if total_s is None else total_s, message)
            loop.call_soon_threadsafe(board.progressed, job.id, now)

        answer: tuple[Any, ...] = ("cancelled",)
        if job.id not in board.unwanted:
            message = await asyncio.to_thread(self._message, job)
            try:
                answer = await self._in_thread(self.process.run, message, progress)
            except Died as error:
                await asyncio.to_thread(shutil.rmtree, message["folder"], ignore_errors=True)
                answer = ("died", str(error))
        match answer:
            case ("done", facts):
                return await self._with_results(job, facts)
            case ("failed", status, detail):
                return self._failed(job, Problem(status, detail))
            case ("cancelled",):
                return job.ended("cancelled", keep)
        return self._interrupted(job, answer[1])

    def _interrupted(self, job: Job, how: str) -> Job:
        """A job whose process has ended."""
        board = self._server.jobs.board
        if job.id in board.unwanted:
            return job.ended("cancelled", self._server.settings.results_s)
        if board.draining:  # the next server does it
            return replace(job, status="queued", started=None, starts=job.starts - 1)
        log.error("the worker ended (%s) at job %s", how, job.id)
        job = replace(job, deaths=job.deaths + 1, status="queued", started=None)
        if job.deaths < MOST_DEATHS:
            return job
        text = f"the process that worked on it ended {job.deaths} times ({how}): it may need more memory than there is"
        return self._failed(job, Problem(500, text))

    async def _with_results(self, job: Job, facts: dict[str, Any]) -> Job:
        """The job with its results where they stay."""
        folder, keep = self._server.jobs.place(job.id), self._server.settings.results_s
        warnings = tuple(facts["warnings"])
        try:
            if job.kind == "separation":
                await asyncio.to_thread(_moved, folder / "work", folder / "outputs")
                outputs = tuple(one | {"media_type": job.asked["media_type"]} for one in facts["outputs"])
                given = None if job.input is None else job.input | {"seconds": facts["seconds"]}
                return job.ended("done", keep, outputs=outputs, warnings=warnings, input=given)
            assert job.prompt is not None
            await self._server.library.keep(job.prompt, folder / "work" / "prompt.safetensors")
            await asyncio.to_thread(shutil.rmtree, folder / "work", ignore_errors=True)
        except UssfastError as error:
            return self._failed(job, problem_of(error))
        except OSError as error:
            return self._failed(job, Problem(507, f"the results could not be kept: {error.strerror or error}"))
        return job.ended("done", keep, warnings=warnings)

    def _failed(self, job: Job, problem: Problem) -> Job:
        return job.ended("failed", self._server.settings.results_s, error=problem.as_dict())

    def _message(self, job: Job) -> dict[str, Any]:
        """What the worker is told."""
        jobs, settings = self._server.jobs, self._server.settings
        folder = jobs.place(job.id)
        files = [{"name": file["name"], "path": str(folder / file["file"])} for file in job.files]
        banks = [str(folder / name) for name in job.asked.get("banks", ())]
        if job.kind == "tune":  # their clips are what it is told from
            banks = self._server.library.banks()
        most = settings.max_audio_s if job.kind == "separation" else settings.max_clip_s
        more = {"banks": banks, "most_s": most, "most_bytes": jobs.space.left()}
        return job.asked | more | {"id": job.id, "kind": job.kind, "files": files, "folder": str(folder / "work")}

    def _count(self, job: Job) -> None:
        log.info("job %s: %s, %s", job.id, job.kind, job.status)
        if job.status == "done" and job.finished is not None and job.started is not None:
            metrics = self._server.metrics
            metrics.job_seconds.observe(max(0.0, job.finished - job.started))
            metrics.job_audio.inc((job.input or {}).get("seconds") or 0.0)

    async def _in_thread(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)


def _moved(work: Path, outputs: Path) -> None:
    with suppress(FileNotFoundError):
        shutil.rmtree(outputs)
    work.rename(outputs)
