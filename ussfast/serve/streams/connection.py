"""One WebSocket of a stream while it lasts: messages in, pieces out, and why it ends."""

import asyncio
import time
from collections import deque
from typing import TYPE_CHECKING

from ussfast.errors import InputError
from ussfast.serve.streams.live import Live, Out, nowhere
from ussfast.serve.streams.protocol import Ack, Change, Close, End, Ping, message_of, text_of
from ussfast.serve.streams.wire import Wire

if TYPE_CHECKING:
    from ussfast.serve.settings import ServeSettings
    from ussfast.serve.streams.keeper import Keeper

PAUSE_S = 0.02  # between looks whether a client is still ahead
ALIVE_S = 3.0  # a client that said nothing for so long may be gone without our knowing
MOST_CHANGES, CHANGES_S = 100, 10.0  # of prompts
MOST_WAITING = 1000  # messages that wait for a client that does not read


class Connection:
    """The `Sink` of a wire; all of it runs in the loop's thread.

    Args:
        live: the stream.
        begun: when its first sample was due, by the monotonic clock.
    Attributes:
        heard_all: whether the client has all of a stream that has ended.
        done: set once the stream is put down, and may be gone on with.
    """

    def __init__(self, live: Live, wire: Wire, keeper: "Keeper", settings: "ServeSettings", begun: float):
        self.live, self._wire, self._keeper, self._settings = live, wire, keeper, settings
        self._begun, self._loop = begun, asyncio.get_running_loop()
        self._outs: deque[Out] = deque()  # what could not be written yet
        self._unsent_s = 0.0
        self._over, self.done = asyncio.Event(), asyncio.Event()
        self._code: Close | None = None  # that was or will be said
        self._closed = self._said_end = self._held = self.heard_all = False
        self._heard_at = time.perf_counter()
        self._changes: deque[float] = deque(maxlen=MOST_CHANGES)

    async def run(self, hello: str) -> None:
        """Returns when it is closed, whoever did it."""
        self._wire.attach(self, self.live.asked.most_bytes)
        self.live.send = self.send
        self.send(Out(hello))
        await self._over.wait()

    @property
    def alive(self) -> bool:
        """Whether something came of it just now."""
        return not self._closed and time.perf_counter() - self._heard_at < ALIVE_S

    def close(self, why: Close, kind: str = "", /, **fields: object) -> None:
        """Ends it, with a message of that kind before, behind all that is ready."""
        if self._code is None:
            self.send(Out(text_of(kind, **fields) if kind else "", 0.0, why))

    def tick(self, now: float) -> None:
        """Called now and then: has it lasted too long, or is nobody there?"""
        idle, most = self._settings.idle_s, self._settings.max_stream_s
        if not self._said_end and now - self._heard_at > idle:
            self.close(Close.IDLE, "error", code="idle", detail=f"nothing came for {idle:g} s")
        elif self.live.received > most * self.live.asked.sample_rate:
            self.close(Close.NOT_ALLOWED, "error", code="long", detail=f"a stream may last {most:g} s")

    # Out.

    def send(self, out: Out) -> None:
        if self._closed:
            return
        if out.close is not None:
            self._code = out.close
            # A client that does not read keeps nothing here for long.
            self._loop.call_later(self._settings.max_unsent_s, self._hang_up, out.close)
        if self._outs or not self._write(out):
            self._outs.append(out)
            self._unsent_s += out.seconds
            if self._unsent_s > self._settings.max_unsent_s or len(self._outs) > MOST_WAITING:
                self._hang_up(Close.TOO_SLOW)

    def _write(self, out: Out) -> bool:
        if out.data and not self._wire.write(out.data):
            return False
        if out.close is not None:
            self._hang_up(out.close)
        return True

    def writable(self) -> None:
        while self._outs and not self._closed and self._write(self._outs[0]):
            self._unsent_s -= self._outs.popleft().seconds

    def _hang_up(self, code: Close) -> None:
        if not self._closed:
            self._closed, self._code = True, code
            self.live.send = nowhere
            self._wire.close(int(code))

    def lost(self, answered: bool) -> None:
        self.heard_all = self.heard_all or (answered and self._code is Close.ENDED)
        self._closed = True
        self._outs.clear()
        self.live.send = nowhere
        self._over.set()

    # In.

    def heard(self, data: bytes) -> None:
        if self._code is not None:
            return
        live = self.live
        self._heard_at = time.perf_counter()
        try:
            if self._said_end:
                raise InputError("audio after the end of the stream")
            if len(data) > live.asked.most_bytes:
                self.close(Close.TOO_LARGE)
                return
            live.add(data)
        except InputError as error:
            self.close(Close.GARBAGE, "error", code="garbage", detail=str(error))
            return
        live.hub.notify(live)
        if not self._held and self._ahead():
            self._held = True
            self._wire.hold(True)
            self._loop.call_later(PAUSE_S, self._go_on)

    def _ahead(self) -> bool:
        most, live = self._settings.max_ahead_s, self.live
        since = time.perf_counter() - self._begun
        return live.waiting_s > most or live.received / live.asked.sample_rate > since + most

    def _go_on(self) -> None:
        if self._closed or not self._ahead():
            self._held = False
            self._wire.hold(False)
        else:
            self._heard_at = time.perf_counter()  # it is we who do not listen
            self._loop.call_later(PAUSE_S, self._go_on)

    def said(self, text: str) -> None:
        self._heard_at = time.perf_counter()
        try:
            self._said(text)
        except InputError as error:
            self.close(Close.GARBAGE, "error", code="garbage", detail=str(error))

    def _said(self, text: str) -> None:
        message, live = message_of(text), self.live
        if isinstance(message, Ack):
            if message.received > live.received:
                raise InputError(f"{message.received} frames are acknowledged, but {live.received} came in")
            if live.asked.resumable:
                self._keeper.ack(live, message.received)
            self.heard_all = live.ended and message.received >= live.given
        elif isinstance(message, Ping):
            self.send(Out(text_of("pong", id=message.id)))
        elif self._code is not None:
            return
        elif self._said_end:
            raise InputError("something follows the end of the stream")
        elif isinstance(message, Change) and self._too_often():
            detail = f"more than {MOST_CHANGES} changes of prompts in {CHANGES_S:g} s"
            self.close(Close.NOT_ALLOWED, "error", code="changes", detail=detail)
        else:
            self._said_end = isinstance(message, End)
            live.items.append(message)
            live.hub.notify(live)

    def _too_often(self) -> bool:
        now = time.perf_counter()
        self._changes.append(now)
        return len(self._changes) == MOST_CHANGES and now - self._changes[0] < CHANGES_S
