"""The cheapest client of live streams there is: frames made beforehand, one loop for all; for measuring a server."""

import asyncio
import base64
import collections
import json
import os
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

PIECE = struct.Struct("<BBHIQII")


def frame(opcode: int, data: bytes) -> bytes:
    """A client's frame; its mask is zeros, so that nothing has to be masked."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", 0x80 | opcode, 0x80 | size)
    elif size < 1 << 16:
        head = struct.pack("!BBH", 0x80 | opcode, 0xFE, size)
    else:
        head = struct.pack("!BBQ", 0x80 | opcode, 0xFF, size)
    return head + bytes(4) + data


def said(**fields: Any) -> bytes:
    return frame(1, json.dumps(fields).encode())


class Socket(asyncio.Protocol):
    """A WebSocket; on_piece(first, frames, late_ms), on_text(message)."""

    def __init__(self, host: str, path: str):
        self.host, self.path = host, path
        loop = asyncio.get_running_loop()
        self.open: asyncio.Future[int] = loop.create_future()  # the status of the answer
        self.closed: asyncio.Future[int] = loop.create_future()  # the code, 1006 without one
        self.on_piece: Callable[[int, int, int], None] = lambda *_: None
        self.on_text: Callable[[dict[str, Any]], None] = lambda _: None
        self.transport: asyncio.Transport | None = None
        self.head = b""
        self._data = bytearray()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET {self.path} HTTP/1.1", f"Host: {self.host}", "Upgrade: websocket", "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Protocol: ussfast.v1", "", "",
        )  # fmt: skip
        transport.write("\r\n".join(lines).encode())

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self.open.done():
            head, found, rest = bytes(self._data).partition(b"\r\n\r\n")
            if not found:
                return
            self.head, self._data = head, bytearray(rest)
            self.open.set_result(int(head.split()[1]))
        if self.open.result() == 101:
            self._frames()

    def _frames(self) -> None:
        data, at = self._data, 0
        while len(data) - at >= 2:
            opcode, size, start = data[at] & 15, data[at + 1], at + 2
            if size == 126:
                if len(data) - at < 4:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 4], "big"), at + 4
            elif size == 127:
                if len(data) - at < 10:
                    break
                size, start = int.from_bytes(data[at + 2 : at + 10], "big"), at + 10
            if len(data) < start + size:
                break
            if opcode == 2:
                _, _, _, _, first, frames, late = PIECE.unpack_from(data, start)
                self.on_piece(first, frames, late)
            else:
                self._other(opcode, bytes(data[start : start + size]))
            at = start + size
        if at:
            del data[:at]

    def _other(self, opcode: int, data: bytes) -> None:
        assert self.transport is not None
        if opcode == 1:
            self.on_text(json.loads(data))
        elif opcode == 9:
            self.transport.write(frame(10, data))
        elif opcode == 8:
            if not self.closed.done():
                self.closed.set_result(int.from_bytes(data[:2], "big") if len(data) > 1 else 1005)
            self.transport.write(frame(8, data[:2]))
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        for future, value in ((self.open, 0), (self.closed, 1006)):
            if not future.done():
                future.set_result(value)


async def connect(host: str, port: int, path: str) -> Socket:
    """Waits for the answer; `open` has its status."""
    loop = asyncio.get_running_loop()
    _, socket = await loop.create_connection(lambda: Socket(f"{host}:{port}", path), host, port)
    await socket.open
    return socket


class Paced:
    """One stream at the pace of real time.

    given: output frames that there are after so many chunks. deadline_s: between when the last sample of a piece was
    due and when it is here.
    """

    def __init__(self, socket: Socket, chunk: bytes, given: np.ndarray, deadline_s: float):
        self.socket, self._chunk, self._given, self._deadline_s = socket, frame(2, chunk), given, deadline_s
        self.due: list[float] = []
        self.pieces = self.late = self.server_late = self.frames = self.gaps = self.lag_over = 0
        self.worst = 0.0
        self.late_in = collections.Counter[int]()  # pieces that the server calls late, by seconds of the clock
        self._number = 0
        self._time = asyncio.get_running_loop().time
        socket.on_piece, socket.on_text = self._piece, self._text

    def send(self, due: float) -> None:
        """A chunk that was due then."""
        assert self.socket.transport is not None
        self.due.append(due)
        self.socket.transport.write(self._chunk)

    def _piece(self, first: int, frames: int, late_ms: int) -> None:
        now = self._time()
        self.pieces += 1
        if late_ms > 0:
            self.server_late += 1
            self.late_in[int(now)] += 1
        self.gaps += first != self.frames
        self.frames = first + frames
        given, number = self._given, self._number
        while given[number] < self.frames:
            number += 1
        self._number = number
        if number <= len(self.due):
            delay = now - self.due[number - 1]
            self.worst = max(self.worst, delay)
            self.late += delay > self._deadline_s

    def _text(self, message: dict[str, Any]) -> None:
        if message["type"] == "saved" and self.socket.transport is not None:
            self.socket.transport.write(said(type="ack", received=self.frames))
