"""The server as a process: how it listens, and how SIGTERM lets what runs end well."""

import logging
import socket
from typing import Any

import uvicorn

from ussfast.serve.app import create_app
from ussfast.serve.server import Server
from ussfast.serve.settings import ServeSettings
from ussfast.serve.streams.wire import ShortWire

BACKLOG = 1024
PING_S = 10.0  # a client that does not answer for so long is gone
MOST_MESSAGE = 1 << 16  # bytes of a WebSocket's message, for those that are no stream's


class Draining(uvicorn.Server):
    """Ends what is under way before it closes connections."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if not self.force_exit:
            await self._server.drain()
        await super().shutdown(sockets)


def made(settings: ServeSettings, **more: Any) -> Draining:
    """A server that listens once its `run` or `serve` is called; more: of uvicorn's Config."""
    app = create_app(settings)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level=settings.log_level, access_log=False, server_header=False,
        ws=ShortWire, ws_per_message_deflate=False, ws_max_size=MOST_MESSAGE, ws_ping_interval=PING_S,
        ws_ping_timeout=PING_S, backlog=BACKLOG, timeout_graceful_shutdown=5, **more,
    )  # fmt: skip
    return Draining(config, app.state.server)


def run(settings: ServeSettings) -> None:
    """Serves until SIGTERM or Ctrl-C."""
    logging.getLogger("ussfast.serve").setLevel(settings.log_level.upper())
    made(settings).run()
