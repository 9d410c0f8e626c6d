"""HTTP of jobs."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path, PurePath
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, Query, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse

from ussfast.serve.jobs import asking, described
from ussfast.serve.jobs.accept import preferred
from ussfast.serve.jobs.archive import archive
from ussfast.serve.jobs.records import Job, shown
from ussfast.serve.jobs.uploads import received
from ussfast.serve.problems import MEDIA_TYPE, Problem
from ussfast.serve.server import Server

KEEP_ALIVE_S = 15.0  # of a stream of events: proxies close what is silent
NO_SNIFFING = {"X-Content-Type-Options": "nosniff"}  # files of callers are what we say they are
JSON, ZIP = "application/json", "application/zip"


def job_routes(server: Server) -> APIRouter:
    """The routes under /v1/jobs, and that which separates."""
    router = APIRouter()
    jobs = server.jobs

    def answer(job: Job, status: int = 200, headers: dict[str, str] | None = None) -> Response:
        return JSONResponse(shown(job, jobs.progress(job.id)), status, headers)

    @router.post("/v1/audio/separations", openapi_extra=described.SEPARATION)
    async def separate(request: Request) -> Response:
        later = "respond-async" in request.headers.get("prefer", "").lower()
        accept = request.headers.get("accept")
        jobs.check_open()
        async with received(request, server.temporary, jobs.space, asking.SEPARATION, {"file": 1}) as form:
            asked = await asking.separation(server, form, attached=not later)
            media = asked.job.asked["media_type"]
            kinds = [JSON, ZIP, *([media] if len(asked.labels) == 1 else [])]
            wanted = JSON if later else preferred(accept, kinds)
            if wanted is None:
                raise Problem(406, f"{JSON} and {ZIP} can be had; {media} only where exactly one stem is asked for")
            job = await asked.accept(server)
        if later:
            place = {"Location": f"/v1/jobs/{job.id}", "Preference-Applied": "respond-async"}
            return answer(job, 202, place)
        job = await _done(server, request, job)
        if job.status != "done":
            return _failure(job)
        if wanted == ZIP:
            return _archive(server, job)
        return answer(job) if wanted == JSON else _stem(server, job, job.outputs[0])

    @router.get("/v1/jobs")
    async def listed(limit: Annotated[int, Query(ge=1, le=1000)] = 100) -> Response:
        found = jobs.records.newest(limit)
        return JSONResponse([shown(job, jobs.progress(job.id)) for job in found])

    @router.get("/v1/jobs/{id}")
    async def one(id: str) -> Response:
        return answer(jobs.get(id))

    @router.get("/v1/jobs/{id}/events")
    async def events(id: str) -> Response:
        jobs.get(id)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(server, id), media_type="text/event-stream", headers=headers)

    @router.post("/v1/jobs/{id}/cancel")
    async def cancel(id: str) -> Response:
        return answer(await jobs.cancel(id))

    @router.delete("/v1/jobs/{id}")
    async def remove(id: str) -> Response:
        await jobs.remove(id)
        return Response(status_code=204)

    @router.get("/v1/jobs/{id}/stems/{label:path}")
    async def stem(id: str, label: str) -> Response:
        job = _finished(jobs.get(id))
        for output in job.outputs:
            if output["label"] == label:
                return _stem(server, job, output)
        raise Problem(404, f"there is no stem {label[:100]!r}; there are {', '.join(o['label'] for o in job.outputs)}")

    @router.get("/v1/jobs/{id}/input")
    async def given(id: str) -> Response:
        job = jobs.get(id)
        if job.kind != "separation":
            raise Problem(404, "the clips of a prompt are kept in its file, as far as they are needed")
        file = job.files[0]
        return _sent(jobs.place(id) / file["file"], "application/octet-stream", file["name"])

    @router.get("/v1/jobs/{id}/archive")
    async def zipped(id: str) -> Response:
        return _archive(server, _finished(jobs.get(id)))

    return router


async def _done(server: Server, request: Request, job: Job) -> Job:
    """The job when it is over; one whose caller has gone away is cancelled, and so is what a draining server has not
    begun."""

    async def over() -> Job:
        async for now in server.jobs.watch(job.id):
            if now.over:
                return now
            if server.draining and now.status == "queued":
                raise Problem(503, "the server is about to end: ask the next one", 5)
        raise Problem(404, "the job was removed meanwhile")

    async def gone() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    waiting, leaving = asyncio.create_task(over()), asyncio.create_task(gone())
    try:
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        raise Problem(400, "the client went away")  # nobody reads it
    except BaseException:
        with suppress(Problem):  # it may be removed
            await asyncio.shield(server.jobs.cancel(job.id))
        raise
    finally:
        waiting.cancel()
        leaving.cancel()


async def _events(server: Server, id: str) -> AsyncIterator[str]:
    last = None
    async for job in server.jobs.watch(id, KEEP_ALIVE_S):
        text = json.dumps(shown(job, server.jobs.progress(id)))
        if text == last:
            yield ": still here\n\n"
        else:
            yield f"event: {job.status if job.over else 'progress'}\ndata: {text}\n\n"
        last = text
        if server.draining and job.status == "queued":
            return


def _finished(job: Job) -> Job:
    if job.status != "done":
        raise Problem(409, f"the job is {job.status}: there are results once it is done")
    return job


def _failure(job: Job) -> Response:
    if job.error is not None:
        return JSONResponse(job.error, job.error["status"], media_type=MEDIA_TYPE)
    return Problem(409, "the job was cancelled").response()


def _stem(server: Server, job: Job, output: dict[str, Any]) -> Response:
    path = server.jobs.place(job.id) / "outputs" / output["file"]
    return _sent(path, output["media_type"], output["file"], {"Content-Location": f"/v1/jobs/{job.id}"})


def _sent(path: Path, media_type: str, name: str, headers: dict[str, str] | None = None) -> Response:
    if not path.is_file():  # removed just now
        raise Problem(404, "the file is gone: its job was removed, or has expired")
    return FileResponse(path, headers=NO_SNIFFING | (headers or {}), media_type=media_type, filename=name)


def _archive(server: Server, job: Job) -> Response:
    if not job.outputs:
        raise Problem(404, "the job has no files")
    folder = server.jobs.place(job.id) / "outputs"
    paths = [folder / one["file"] for one in job.outputs]
    if not all(path.is_file() for path in paths):
        raise Problem(404, "the files are gone: their job was removed, or has expired")
    stem = quote(PurePath((job.input or {}).get("name", "")).stem or "stems", safe="")
    headers = NO_SNIFFING | {
        "Content-Disposition": f"attachment; filename*=UTF-8''{stem}.zip",
        "Content-Location": f"/v1/jobs/{job.id}",
    }
    return StreamingResponse(archive(paths), media_type=ZIP, headers=headers)
