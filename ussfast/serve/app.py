"""The application: routes of all parts behind one guard."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response

import ussfast
from ussfast.errors import UssfastError
from ussfast.serve.guard import Guard
from ussfast.serve.jobs.routes import job_routes
from ussfast.serve.jobs.running import Jobs
from ussfast.serve.metrics import MEDIA_TYPE, Counted
from ussfast.serve.problems import Problem, problem_of
from ussfast.serve.prompts.library import Library
from ussfast.serve.prompts.routes import prompt_routes
from ussfast.serve.server import Server
from ussfast.serve.settings import ServeSettings
from ussfast.serve.streams.part import Streams
from ussfast.serve.streams.protocol import MOST_PROMPTS
from ussfast.serve.streams.routes import StreamGate, router
from ussfast.serve.web import add_page

log = logging.getLogger("ussfast.serve")


def create_app(settings: ServeSettings | None = None) -> FastAPI:
    """The ASGI application; `app.state.server` is its Server."""
    server = Server(settings or ServeSettings())

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        try:
            await server.start()
            yield
        finally:
            await server.stop()

    # The pages of documentation that FastAPI makes load scripts from elsewhere: /openapi.json is for tools.
    app = FastAPI(title="ussfast", version=ussfast.__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.server = server
    streams = Streams(server)
    server.parts = {"prompts": Library(server), "streams": streams, "jobs": Jobs(server)}
    app.include_router(router(streams))
    _facts(app, server)
    app.include_router(job_routes(server))
    app.include_router(prompt_routes(server))
    add_page(app)
    _errors(app)
    app.add_middleware(StreamGate, streams=streams)
    app.add_middleware(Guard, settings=server.settings)
    if server.settings.allowed_origins:  # outermost: a browser asks without a token whether it may show one
        app.add_middleware(
            CORSMiddleware, allow_origins=server.settings.allowed_origins, allow_methods=["*"], allow_headers=["*"],
            expose_headers=["Location", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(Counted, metrics=server.metrics)
    return app


def _facts(app: FastAPI, server: Server) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready")
    async def ready() -> Response:
        reasons = server.reasons()
        return JSONResponse({"ready": not reasons, "reasons": reasons}, 503 if reasons else 200)

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(server.metrics.text(), media_type=MEDIA_TYPE)

    @app.get("/v1/model")
    async def model() -> dict[str, Any]:
        separator, limits = server.separator, server.settings
        return {
            "name": separator.info.name, "version": ussfast.__version__, "sample_rate": separator.sample_rate,
            "labels": list(separator.info.labels), "prompts": list(separator.prompts),
            "can_enroll": separator.can_enroll, "can_stream": separator.engine.causal is not None,
            "limits": {
                "max_audio_s": limits.max_audio_s, "max_body_bytes": limits.max_body, "max_clips": limits.max_clips,
                "max_clip_s": limits.max_clip_s, "max_stream_prompts": MOST_PROMPTS,
            },
        }  # fmt: skip


def _errors(app: FastAPI) -> None:
    async def known(request: Request, error: Exception) -> Response:
        return problem_of(error).response()

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        wrong = error.errors()[0]
        place = ".".join(str(part) for part in wrong["loc"][1:]) or "the request"
        return Problem(400, f"{place}: {wrong['msg']}").response()

    async def http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        answer = Problem(error.status_code, str(error.detail)).response()
        answer.headers.update(error.headers or {})  # 405 says what is allowed
        return answer

    async def unknown(request: Request, error: Exception) -> Response:
        log.exception("%s %s", request.method, request.url.path, exc_info=error)
        return problem_of(error).response()

    app.add_exception_handler(Problem, known)
    app.add_exception_handler(UssfastError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unknown)
