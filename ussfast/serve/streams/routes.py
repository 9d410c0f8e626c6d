"""Live streams behind the application: the way of WebSockets, and what is answered over HTTP."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from ussfast.serve.streams.part import PATH, Streams


class StreamGate:
    """ASGI middleware: WebSockets go to streams, without the layers that requests need."""

    def __init__(self, app: ASGIApp, streams: Streams):
        self.app, self._streams = app, streams

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if scope["type"] == "websocket" and (path == PATH or path.startswith(f"{PATH}/")):
            await self._streams.connect(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def router(streams: Streams) -> APIRouter:
    routes = APIRouter()

    @routes.get(PATH)
    async def facts(request: Request) -> dict[str, Any]:
        return await streams.facts(request.scope["query_string"])

    return routes
