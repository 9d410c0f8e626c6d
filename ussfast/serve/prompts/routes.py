"""HTTP of prompts."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import FileResponse, JSONResponse, Response

from ussfast.serve.jobs import asking, described
from ussfast.serve.jobs.records import shown
from ussfast.serve.jobs.uploads import received
from ussfast.serve.problems import Problem
from ussfast.serve.server import Server


def prompt_routes(server: Server) -> APIRouter:
    """The routes under /v1/prompts."""
    router = APIRouter()
    library, jobs = server.library, server.jobs

    @router.get("/v1/prompts")
    async def listed() -> list[dict[str, Any]]:
        return library.all()

    @router.post("/v1/prompts", openapi_extra=described.ENROLMENT)
    async def make(request: Request) -> Response:
        jobs.check_open()
        clips = {"clips": server.settings.max_clips}
        async with received(request, server.temporary, jobs.space, asking.ENROLMENT, clips) as form:
            job = await (await asking.enrolment(server, form)).accept(server)
        return JSONResponse(shown(job), 202, {"Location": f"/v1/jobs/{job.id}"})

    # A name may hold anything that can be printed, slashes too; "/file" at its end is a request for the file.
    @router.get("/v1/prompts/{name:path}/file")
    async def file(name: str) -> Response:
        if library.get(name)["kind"] == "class":
            raise Problem(404, f"{name!r} is a class prompt: it comes with the model and has no file")
        path = library.path(name)
        return FileResponse(path, media_type="application/octet-stream", filename=f"{name}.safetensors")

    @router.get("/v1/prompts/{name:path}")
    async def one(name: str) -> dict[str, Any]:
        return library.get(name)

    @router.delete("/v1/prompts/{name:path}")
    async def remove(name: str) -> Response:
        await library.remove(name)
        return Response(status_code=204)

    return router
