"""The server as a program: how it listens, and how SIGTERM lets what runs end well."""

import asyncio
import gc
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn

from ussfast.errors import InputError
from ussfast.serve.app import create_app
from ussfast.serve.server import Server
from ussfast.serve.settings import ServeSettings
from ussfast.serve.streams.wire import ShortWire

BACKLOG = 1024
PING_S = 10.0  # a client that does not answer for so long is gone
CLOSE_S = 5  # for connections to take their last answers
MOST_MESSAGE = 1 << 16  # bytes of a WebSocket's message, for those that are no stream's
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class Draining(uvicorn.Server):
    """Ends what is under way before it closes connections; meanwhile it answers that it is about to end."""

    def __init__(self, config: uvicorn.Config, server: Server):
        super().__init__(config)
        self._server = server

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server, and are nothing more to anybody afterwards: it has done what they want."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._server.drain())
        while not draining.done() and not self.force_exit:  # by a second Ctrl-C
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        with suppress(asyncio.CancelledError):
            await draining
        await super().shutdown(sockets)


def made(settings: ServeSettings, **more: Any) -> Draining:
    """A server that listens once its `run` or `serve` is called; more: of uvicorn's Config."""
    app = create_app(settings)
    config = uvicorn.Config(
        app, host=settings.host, port=settings.port, log_level=settings.log_level, server_header=False,
        access_log=settings.log_level == "debug", ws=ShortWire, ws_per_message_deflate=False,
        ws_max_size=MOST_MESSAGE, ws_ping_interval=PING_S, ws_ping_timeout=PING_S, backlog=BACKLOG,
        timeout_graceful_shutdown=CLOSE_S, **more,
    )  # fmt: skip
    return Draining(config, app.state.server)


def run(settings: ServeSettings) -> None:
    """Serves until SIGTERM or Ctrl-C, and prints where.

    Raises:
        InputError: an address that cannot be had, another server's data folder, a model that cannot be.
    """
    logging.basicConfig(format=FORMAT, level=settings.log_level.upper(), stream=sys.stderr)
    sockets = listening(settings.host, settings.port)
    program = made(settings, log_config=None, lifespan="off")  # what is wrong at the start is told without a traceback
    try:
        with asyncio.Runner(loop_factory=program.config.get_loop_factory()) as runner:
            runner.run(_serve(program, settings.host, sockets))
    finally:
        for one in sockets:
            one.close()


async def _serve(program: Draining, host: str, sockets: list[socket.socket]) -> None:
    server: Server = program.config.app.state.server  # type: ignore[union-attr]
    try:
        await server.start()
        port = sockets[0].getsockname()[1]  # it listens already: who calls now is answered in a moment
        print(f"ussfast serves http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        # What is there now stays. Looking through it for garbage stops all threads for a quarter of a second.
        gc.collect()
        gc.freeze()
        await program.serve(sockets=sockets)
    finally:
        await server.stop()


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses that a host has, of one port. InputError for an address that cannot be had."""
    found = list[socket.socket]()
    try:
        places = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(places):
            place = (address[0], found[0].getsockname()[1] if found else port)
            found.append(socket.create_server(place, family=family, backlog=BACKLOG))
    except OSError as error:
        for one in found:
            one.close()
        raise InputError(f"{host}, port {port}: cannot listen there: {error.strerror or error}") from None
    return found
