"""A server as a program: settings, sockets, signals, and its end."""

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import uvicorn
from pydantic import ValidationError

from ussfast.errors import InputError
from ussfast.serve.app import create_app
from ussfast.serve.server import Server
from ussfast.serve.settings import ServeSettings
from ussfast.values import shown

FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
CLOSE_S = 5  # for connections to take their last answers
MOST_MESSAGE = 1 << 20  # bytes of a WebSocket's


def settings_of(given: Mapping[str, Any]) -> ServeSettings:
    """Settings from options and variables; InputError in one line for the first that is wrong."""
    prefix = ServeSettings.model_config["env_prefix"]
    for name in os.environ:
        if name.startswith(prefix) and name.removeprefix(prefix).lower() not in ServeSettings.model_fields:
            raise InputError(f"{name}: no such setting; {', '.join(ServeSettings.model_fields)} are there")
    try:
        return ServeSettings(**given)
    except ValidationError as error:
        wrong = error.errors()[0]
        name = ".".join(str(part) for part in wrong["loc"])
        value = "" if not name or name == "token" else f", not {shown(wrong['input'])}"
        text = wrong["msg"].removeprefix("Value error, ")
        raise InputError(f"{name}: {text}{value}" if name else text) from None


def run(settings: ServeSettings) -> None:
    """Serves until SIGTERM or Ctrl-C, and prints where.

    Raises:
        InputError: an address that cannot be had, another server's data folder, a model that cannot be.
    """
    logging.basicConfig(format=FORMAT, level=settings.log_level.upper(), stream=sys.stderr)
    sockets = listening(settings.host, settings.port)
    app = create_app(settings)
    server: Server = app.state.server
    config = uvicorn.Config(
        app, log_config=None, lifespan="off", access_log=settings.log_level == "debug", server_header=False,
        timeout_graceful_shutdown=CLOSE_S, ws_max_size=MOST_MESSAGE, ws="websockets-sansio",
    )  # fmt: skip
    try:
        with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:
            runner.run(_serve(server, _Program(config, server, settings, sockets), sockets))
    finally:
        for one in sockets:
            one.close()


async def _serve(server: Server, program: "_Program", sockets: list[socket.socket]) -> None:
    try:
        await server.start()
        await program.serve(sockets=sockets)
    finally:
        await server.stop()


class _Program(uvicorn.Server):
    """Drains before it closes connections; meanwhile it answers that it is about to end."""

    def __init__(self, config: uvicorn.Config, server: Server, settings: ServeSettings, sockets: list[socket.socket]):
        super().__init__(config)
        self._server, self._settings, self._sockets = server, settings, sockets

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Signals end the server, and are nothing more to anybody afterwards: it has done what they want."""
        before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        host, port = self._settings.host, self._sockets[0].getsockname()[1]
        print(f"ussfast serves http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        draining = asyncio.create_task(self._server.drain())
        while not draining.done() and not self.force_exit:  # a second Ctrl-C
            await asyncio.wait([draining], timeout=0.1)
        draining.cancel()
        with suppress(asyncio.CancelledError):
            await draining
        await super().shutdown(sockets)


def listening(host: str, port: int) -> list[socket.socket]:
    """Sockets on all addresses that a host has, of one port. InputError for an address that cannot be had."""
    made = list[socket.socket]()
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            place = (address[0], made[0].getsockname()[1] if made else port)
            made.append(socket.create_server(place, family=family, backlog=2048))
    except OSError as error:
        for one in made:
            one.close()
        raise InputError(f"{host}, port {port}: cannot listen there: {error.strerror or error}") from None
    return made
