"""What a stream's WebSocket is to us: on uvicorn, with a shorter way for audio, and on any other server of ASGI."""

import asyncio
from contextlib import suppress
from typing import Any, Protocol

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode, Frame, apply_mask
from websockets.protocol import State

CLOSE_S = 3.0  # that a client has to take what was sent to it, and the close
EXTENSION = "ussfast.wire"  # of the scope
BINARY, TEXT, MASKED = 0x82, 0x81, 0x80  # first byte of a whole message; of the second


class Sink(Protocol):
    """Who is told what comes."""

    def heard(self, data: bytes) -> None: ...

    def said(self, text: str) -> None: ...

    def writable(self) -> None:
        """What was refused before can be written now."""

    def lost(self, answered: bool) -> None:
        """It is over. answered: the client has answered our close, so that it has all that was sent before."""


class Wire(Protocol):
    """A WebSocket that was accepted."""

    def attach(self, sink: Sink, most: int) -> None:
        """most: bytes of a message."""

    def write(self, data: bytes | str) -> bool:
        """False where the client does not read: nothing was written, `writable` follows."""

    def hold(self, on: bool) -> None:
        """Nothing more is read for now."""

    def close(self, code: int) -> None:
        """Behind all that was written; `lost` follows within CLOSE_S, whatever the client does."""


def wire_of(scope: Scope, receive: Receive, send: Send) -> Wire:
    own = scope.get("extensions", {}).get(EXTENSION)
    return own if isinstance(own, ShortWire) else AsgiWire(receive, send)


class ShortWire(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket, which websockets parses, but for whole messages of audio once somebody is attached: those
    come without its generators, queues and tasks. A `Wire`; `ws` of uvicorn's Config.
    """

    sink: Sink | None = None

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self._rest, self._most = b"", 0
        self._in_parts = False
        self._answered = False

    async def run_asgi(self) -> None:
        extensions: Any = self.scope["extensions"]
        extensions[EXTENSION] = self
        await super().run_asgi()

    async def send(self, message: Any) -> None:
        await super().send(message)
        if message["type"] == "websocket.http.response.body" and not message.get("more_body", False):
            self.handshake_complete = True  # otherwise a refusal is logged as an error of ours

    def attach(self, sink: Sink, most: int) -> None:
        self.sink, self._most = sink, most
        self.conn.max_message_size = most
        while not self.queue.empty():  # what came before
            self._event(self.queue.get_nowait())
        if self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()

    def _event(self, message: Any) -> None:
        assert self.sink is not None
        if message["type"] == "websocket.receive":
            text = message.get("text")
            if text is None:
                self.sink.heard(message["bytes"])
            else:
                self.sink.said(text)
        elif self.disconnected:
            self.sink.lost(False)

    # In.

    def data_received(self, data: bytes) -> None:
        if self.sink is None:
            super().data_received(data)
            return
        if self._rest:
            data, self._rest = self._rest + data, b""
        at, size = 0, len(data)
        while size - at > 1 and not self.close_sent and not self.read_paused:
            length, start = data[at + 1] & 0x7F, at + 2
            if length > 125:
                start = at + (4 if length == 126 else 10)
                if start > size:
                    break
                length = int.from_bytes(data[at + 2 : start], "big")
            end = start + 4 + length
            if data[at + 1] < MASKED or length > self._most:
                end = size
                super().data_received(data[at:])  # which refuses it
            elif end > size:
                break
            elif data[at] == BINARY and not self._in_parts:
                self.sink.heard(apply_mask(data[start + 4 : end], data[start : start + 4]))
            else:
                if data[at] & 0x0F < 8:
                    self._in_parts = data[at] < 0x80
                super().data_received(data[at:end])
            at = end
        if not self.close_sent:
            self._rest = data[at:]
        elif at < size:
            super().data_received(data[at:])

    def send_receive_event_to_app(self) -> None:
        if self.sink is None:
            super().send_receive_event_to_app()
            return
        data = b"".join(self.frames)
        self.frames = []
        if self.close_sent:
            return
        if self.curr_msg_data_type == "bytes":
            self.sink.heard(data)
            return
        try:
            text = data.decode()
        except UnicodeDecodeError:
            self.close(CloseCode.INVALID_DATA)
            return
        self.sink.said(text)

    def handle_close(self, event: Frame) -> None:
        self._answered = self.close_sent
        super().handle_close(event)
        self._abort_later()

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._abort_later()

    def keepalive_timeout(self) -> None:
        super().keepalive_timeout()
        self._abort_later()

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        if self.sink is not None:
            self.sink.lost(self._answered)

    # Out.

    def resume_writing(self) -> None:
        super().resume_writing()
        if self.sink is not None:
            self.sink.writable()

    def write(self, data: bytes | str) -> bool:
        if not self.writable.is_set():
            return False
        if self.close_sent or self.conn.state is not State.OPEN:
            return True  # nobody will read it
        if isinstance(data, str):
            data, first = data.encode(), TEXT
        else:
            first = BINARY
        size = len(data)
        if size < 126:
            head = bytes((first, size))
        elif size < 1 << 16:
            head = bytes((first, 126, size >> 8, size & 0xFF))
        else:
            head = bytes((first, 127)) + size.to_bytes(8, "big")
        self.transport.write(head + data)
        return True

    def hold(self, on: bool) -> None:
        if on != self.read_paused and not self.transport.is_closing():
            self.read_paused = on
            (self.transport.pause_reading if on else self.transport.resume_reading)()
            if not on:
                self.data_received(b"")  # what one read had brought

    def close(self, code: int) -> None:
        if not self.close_sent and not self.transport.is_closing() and self.conn.state is State.OPEN:
            self.conn.send_close(code)
            self.transport.write(b"".join(self.conn.data_to_send()))
            self.close_sent = True
        self.hold(False)
        self._abort_later()

    def _abort_later(self) -> None:
        """A client that does not read must not keep what was written for it."""
        if self.close_timer is None and not self.disconnected:
            self.close_timer = self.loop.call_later(CLOSE_S, self.transport.abort)


class AsgiWire:
    """A `Wire` by receive and send."""

    def __init__(self, receive: Receive, send: Send):
        self._receive, self._send = receive, send
        self._tasks: list[asyncio.Task[None]] = []
        self._out: asyncio.Queue[dict[str, Any]] = asyncio.Queue(16)
        self._reading = asyncio.Event()
        self._full = False

    def attach(self, sink: Sink, most: int) -> None:
        self._sink = sink
        self._reading.set()
        self._tasks = [asyncio.create_task(work()) for work in (self._read, self._write)]

    async def _read(self) -> None:
        with suppress(Exception):
            while (message := await self._receive())["type"] == "websocket.receive":
                if message.get("bytes") is not None:
                    self._sink.heard(message["bytes"])
                else:
                    self._sink.said(message.get("text") or "")
                await self._reading.wait()
        self._lost()

    async def _write(self) -> None:
        with suppress(Exception):
            while True:
                message = await self._out.get()
                await self._send(message)
                if message["type"] == "websocket.close":
                    break
                if self._full:
                    self._full = False
                    self._sink.writable()
        self._lost()

    def _lost(self) -> None:
        if self._tasks:
            for task in self._tasks:
                if task is not asyncio.current_task():
                    task.cancel()
            self._tasks = []
            self._sink.lost(False)

    def write(self, data: bytes | str) -> bool:
        if self._out.full():
            self._full = True
            return False
        self._out.put_nowait({"type": "websocket.send", "bytes" if isinstance(data, bytes) else "text": data})
        return True

    def hold(self, on: bool) -> None:
        (self._reading.clear if on else self._reading.set)()

    def close(self, code: int) -> None:
        self._reading.set()
        with suppress(asyncio.QueueFull):
            self._out.put_nowait({"type": "websocket.close", "code": code})
        asyncio.get_running_loop().call_later(CLOSE_S, self._lost)
