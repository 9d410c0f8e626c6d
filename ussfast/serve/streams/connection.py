"""One WebSocket of a stream while it lasts: messages in, pieces out, and why it ends."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.types import Receive, Send

from ussfast.errors import InputError
from ussfast.serve.streams.live import Live, Out
from ussfast.serve.streams.protocol import Ack, Change, Close, End, Ping, message_of, text_of

if TYPE_CHECKING:
    from ussfast.serve.settings import ServeSettings
    from ussfast.serve.streams.hub import Hub
    from ussfast.serve.streams.keeper import Keeper

CLOSE_S = 2.0  # that a close may take to be sent, and the last words of a client to come
PAUSE_S = 0.02
MOST_CHANGES, CHANGES_S = 100, 10.0  # of prompts
ALIVE_S = 3.0  # a client of real time that said nothing for so long may be gone without our knowing


class Connection:
    """Args:
    live: the stream. begun: when its first sample was due, by the monotonic clock.
    hang_up: ends the connection without its leave, where the server can.
    """

    def __init__(
        self, live: Live, hub: "Hub", keeper: "Keeper", settings: "ServeSettings", begun: float, receive: Receive,
        send: Send, hang_up: Callable[[], None] | None,
    ):  # fmt: skip
        self.live, self._hub, self._keeper, self._settings, self._begun = live, hub, keeper, settings, begun
        self._receive, self._send, self._hang_up = receive, send, hang_up
        self._outs: deque[Out] = deque()
        self._unsent_s = 0.0
        self._wake, self._over, self._heard_all = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.done = asyncio.Event()  # when the stream is put down, and may be gone on with
        self._code: Close | None = None
        self._gone = False
        self._said_end = False
        self._sent_end = False
        self.heard_at = self.opened_at = time.perf_counter()
        self._changes: deque[float] = deque(maxlen=MOST_CHANGES)
        live.send = self._add

    async def run(self) -> None:
        """Returns when it is closed, whoever did it."""
        tasks = [asyncio.create_task(work()) for work in (self._read, self._write)]
        try:
            await self._over.wait()
        finally:
            self.live.send = _nowhere
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        await self._say_close()

    async def _say_close(self) -> None:
        if self._gone:
            return
        message = {"type": "websocket.close", "code": int(self._code or Close.OUR_FAULT)}
        try:
            await asyncio.wait_for(self._send(message), CLOSE_S)
        except Exception:  # it does not read, or is gone
            if self._hang_up is not None:
                self._hang_up()

    def close(self, code: Close, text: str | None = None) -> None:
        """Ends it; text: of a message before that."""
        if self._over.is_set() or self._code is not None:
            return
        self._code = code
        if code is Close.TOO_SLOW:
            self._outs.clear()
            self._over.set()
        else:
            self._add(Out(text or "", 0.0, code))

    def tick(self, now: float) -> None:
        """Called now and then: has it lasted too long, or is nobody there?"""
        if self._sent_end and now - self.heard_at > CLOSE_S:
            self._over.set()
        elif not self._said_end and now - self.heard_at > self._settings.idle_s:
            self.close(Close.IDLE, text_of("error", code="idle", detail=f"nothing came for {self._settings.idle_s:g} s"))
        elif now - self._begun > self._settings.max_stream_s:
            most = self._settings.max_stream_s
            self.close(Close.NOT_ALLOWED, text_of("error", code="long", detail=f"a stream may last {most:g} s"))
        elif self._code is not None and now - self._closing_since > CLOSE_S:
            self._over.set()

    @property
    def alive(self) -> bool:
        """Whether something came of it just now."""
        return not self._over.is_set() and time.perf_counter() - self.heard_at < ALIVE_S

    @property
    def heard_all(self) -> bool:
        """Whether the client has all of a stream that has ended."""
        return self._heard_all.is_set()

    # Out.

    def _add(self, out: Out) -> None:
        if out.close is not None:
            self._code, self._closing_since = out.close, time.perf_counter()
        self._outs.append(out)
        self._unsent_s += out.seconds
        self._wake.set()
        if self._unsent_s > self._settings.max_unsent_s and not self._over.is_set():
            self._code = Close.TOO_SLOW
            self._outs.clear()
            self._over.set()

    async def _write(self) -> None:
        outs, send = self._outs, self._send
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                while outs:
                    data, seconds, close = outs.popleft()
                    if isinstance(data, bytes):
                        await send({"type": "websocket.send", "bytes": data})
                        self._unsent_s -= seconds
                    elif data:
                        await send({"type": "websocket.send", "text": data})
                    if close is not None:
                        await self._last(close)
                        return
        except Exception:  # it is gone
            self._gone = True
            self._over.set()

    async def _last(self, close: Close) -> None:
        """A stream that can be gone on with is not over before the client has it all."""
        self._sent_end = True
        if close is Close.ENDED and self.live.asked.resumable:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._heard_all.wait(), CLOSE_S)
        self._over.set()

    # In.

    async def _read(self) -> None:
        receive, live, most = self._receive, self.live, self.live.asked.most_bytes
        try:
            while True:
                message = await receive()
                if message["type"] == "websocket.disconnect":
                    self._gone = True
                    self._over.set()
                    return
                self.heard_at = time.perf_counter()
                data = message.get("bytes")
                if data is None:
                    self._text(message.get("text") or "")
                    continue
                if len(data) > most:
                    text = f"a message of {len(data)} bytes; this stream takes {most} at most, 2 s"
                    self.close(Close.TOO_LARGE, text_of("error", code="large", detail=text))
                    continue
                if self._code is not None:
                    continue
                if self._said_end:
                    raise InputError("audio after the end of the stream")
                live.add(data)
                self._hub.notify(live)
                while self._is_ahead():
                    await asyncio.sleep(PAUSE_S)
        except InputError as error:
            self.close(Close.GARBAGE, text_of("error", code="garbage", detail=str(error)))
            await self._rest()
        except Exception:
            self._gone = True
            self._over.set()

    async def _rest(self) -> None:
        """What comes of a client that is about to hear that it is over."""
        with suppress(Exception):
            while (await self._receive())["type"] != "websocket.disconnect":
                pass
        self._gone = True
        self._over.set()

    def _is_ahead(self) -> bool:
        most, live = self._settings.max_ahead_s, self.live
        if self._over.is_set() or self._code is not None:
            return False
        since = time.perf_counter() - self._begun
        return live.waiting_s > most or live.received / live.asked.sample_rate > since + most

    def _text(self, text: str) -> None:
        message, live = message_of(text), self.live
        if isinstance(message, Ack):
            if message.received > live.received:
                raise InputError(f"{message.received} frames are acknowledged; {live.received} came in")
            if live.asked.resumable:
                self._keeper.ack(live, message.received)
            if live.ended and message.received >= live.given:
                self._heard_all.set()
        elif isinstance(message, Ping):
            self._add(Out(text_of("pong", id=message.id)))
        elif self._said_end:
            raise InputError("something follows the end of the stream")
        elif isinstance(message, Change):
            now = time.perf_counter()
            if len(self._changes) == MOST_CHANGES and now - self._changes[0] < CHANGES_S:
                text = f"more than {MOST_CHANGES} changes of prompts in {CHANGES_S:g} s"
                self.close(Close.NOT_ALLOWED, text_of("error", code="changes", detail=text))
                return
            self._changes.append(now)
            live.items.append(message)
            self._hub.notify(live)
        elif isinstance(message, End):
            self._said_end = True
            live.items.append(message)
            self._hub.notify(live)


def _nowhere(out: Out) -> None:
    pass
