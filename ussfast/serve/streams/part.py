"""The part of a server that live streams are: who may begin one, who goes on, and what becomes of each."""

import asyncio
import secrets
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.types import Receive, Scope, Send

from ussfast.errors import UssfastError
from ussfast.prompts.bank import Plan, Prompt
from ussfast.serve.guard import SUBPROTOCOL
from ussfast.serve.problems import Problem, problem_of
from ussfast.serve.streams.admission import RETRY_S, Load
from ussfast.serve.streams.connection import Connection
from ussfast.serve.streams.folders import Folder, Snapshot
from ussfast.serve.streams.hub import Hub
from ussfast.serve.streams.hubs import Hubs
from ussfast.serve.streams.keeper import Keeper
from ussfast.serve.streams.live import Live, Out, Recorded
from ussfast.serve.streams.protocol import NAME, Asked, Close, asked_of, check_names, number_in, query_of, text_of
from ussfast.serve.streams.wire import wire_of
from ussfast.streaming import states
from ussfast.streaming.resampler import StreamResampler
from ussfast.streaming.session import Session

if TYPE_CHECKING:
    from ussfast.serve.server import Server

PATH = "/v1/streams"
PREPARED = Asked(48000, 1, "f32le", None, True)  # what the start prepares for
TRIAL_S, TICK_S, SWEEP_S = 0.25, 0.5, 30.0


class Streams:
    """A `Part` of the server; `hubs`, `keeper` and `load` are there from `start` on."""

    hubs: Hubs
    keeper: Keeper
    load: Load

    def __init__(self, server: "Server"):
        self._server, self._settings = server, server.settings
        self._metrics = server.metrics.streams
        self._connections: dict[str, Connection] = {}
        self._opening: set[str] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._started = False

    # The part of a server.

    async def start(self) -> None:
        loop, settings, separator = asyncio.get_running_loop(), self._settings, self._server.separator
        count = settings.threads if separator.engine.device.type == "cpu" else 1
        self.load = Load(settings.max_streams, settings.headroom, count)
        self.keeper = Keeper(settings.data / "streams", self._metrics, loop)
        seconds = settings.deadline_ms / 1000, settings.snapshot_s
        self.hubs = Hubs(
            count, self.load, lambda: Hub(separator, self.load, self._metrics, self.keeper, *seconds, loop)
        )
        self.keeper.start()
        self.hubs.start()
        if self.possible:
            await self.hubs.trial(PREPARED, tuple(separator.prompts)[:2], TRIAL_S)
        self._metrics.busy.set_function(self.load.busy_now)
        self._metrics.open.set_function(lambda: self.load.streams)
        self._tasks = [asyncio.create_task(work()) for work in (self._tick, self._sweep)]
        self._started = True

    async def drain(self, seconds: float) -> None:
        """Streams that can be gone on with elsewhere are put down at once, others may end in this time."""
        until = time.perf_counter() + seconds
        for connection in list(self._connections.values()):
            connection.live.send(Out(text_of("draining", seconds=seconds)))
            if connection.live.asked.resumable:
                connection.close(Close.DRAINED)
        while self._connections and time.perf_counter() < until:
            await asyncio.sleep(0.05)
        for connection in list(self._connections.values()):
            connection.close(Close.DRAINED)
        while self._connections and time.perf_counter() < until + 3:
            await asyncio.sleep(0.05)

    async def stop(self) -> None:
        if not self._started:
            return
        for task in self._tasks:
            task.cancel()
        for connection in list(self._connections.values()):
            connection.close(Close.DRAINED)
            with suppress(TimeoutError):
                await asyncio.wait_for(connection.done.wait(), 5)
        await asyncio.to_thread(self.hubs.stop)
        await asyncio.to_thread(self.keeper.stop)

    def lacks(self) -> str | None:
        if not self._started:
            return "not started"
        return None if self.hubs.alive else "a thread that computes streams has ended"

    def swap(self, prompt: Prompt) -> None:
        """Another vector for an enrolled prompt, in all streams that ask for it."""
        if self._started and self.possible:
            task = asyncio.ensure_future(self.hubs.swap(prompt))
            self._tasks.append(task)
            task.add_done_callback(self._tasks.remove)

    # Facts.

    @property
    def possible(self) -> bool:
        return self._server.separator.engine.causal is not None

    def check(self, asked: Asked) -> Session:
        """A session like such a stream's; Problem or an UssfastError where it could not begin now."""
        if not self.possible:
            name = self._server.separator.info.name
            raise Problem(501, f"model {name!r} sees whole windows; live streams need a causal one, as the default is")
        session = self._server.separator.session(asked.sample_rate, prompts=asked.prompts, channels=asked.channels)
        if asked.channels > 1 and session.plan.groups and not self._server.separator.engine.linked:
            raise Problem(400, "equal prompts need a stream of one channel")
        self._check_room(asked)
        return session

    def _check_room(self, asked: Asked) -> None:
        if self._server.draining:
            self._metrics.refused.labels("draining").inc()
            raise Problem(503, "the server is about to end; try again in a moment", RETRY_S)
        if reason := self.load.reason(asked.channels):
            self._metrics.refused.labels("full").inc()
            raise Problem(503, reason, RETRY_S)

    async def facts(self, query: bytes) -> dict[str, Any]:
        """What a WebSocket with this query would meet."""
        asked = asked_of(query_of(query))
        session = await asyncio.to_thread(self.check, asked)
        return {
            "room": self.load.room(asked.channels), "labels": session.labels, "latency_s": session.latency,
            "latency_samples": round(session.latency * asked.sample_rate),
        }  # fmt: skip

    # Streams.

    async def connect(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A WebSocket, from its request to its end."""
        if (await receive())["type"] != "websocket.connect":
            return
        try:
            name = scope["path"].removeprefix(PATH).strip("/")
            query = query_of(scope["query_string"])
            opened = await (self._resume(name, query) if name else self._begin(query))
        except (Problem, UssfastError) as error:
            await problem_of(error).response()(scope, receive, send)
            return
        live, hello, begun = opened
        wire = wire_of(scope, receive, send)
        connection = Connection(live, wire, self.keeper, self._settings, begun)
        self._connections[live.id] = connection
        self._opening.discard(live.id)
        try:
            subprotocol = SUBPROTOCOL if SUBPROTOCOL in scope.get("subprotocols", ()) else None
            await send({"type": "websocket.accept", "subprotocol": subprotocol})
            await connection.run(hello)
        finally:
            await asyncio.shield(self._put_down(connection))

    async def _begin(self, query: dict[str, str]) -> tuple[Live, str, float]:
        asked = asked_of(query)
        plan = (await asyncio.to_thread(self.check, asked)).plan
        live = Live(secrets.token_hex(16), asked)
        self._check_room(asked)  # others may have come meanwhile
        self.hubs.take(live)
        try:
            await live.hub.call(live.hub.join, live, plan)
            if asked.resumable:
                await self.keeper.run(self.keeper.begin, live, asked, plan)
        except BaseException:
            await self._release(live)
            raise
        return live, self._hello("started", live), time.perf_counter()

    async def _resume(self, name: str, query: dict[str, str]) -> tuple[Live, str, float]:
        check_names(query, ("received",))
        received = number_in(query, "received", 0, 0, 2**62)
        gone = Problem(404, "there is no such stream, or it was left for too long: begin a new one")
        if not NAME.fullmatch(name):
            raise gone
        if name in self._opening:
            raise Problem(409, "this stream is being gone on with elsewhere", 1)
        self._opening.add(name)
        try:
            await self._take_over(name)
            try:
                folder = await self.keeper.run(self.keeper.find, name)
            except UssfastError:
                raise gone from None
            return await self._go_on(name, folder, received)
        except BaseException:
            self._opening.discard(name)
            raise

    async def _take_over(self, name: str) -> None:
        """A connection that is only half there makes way."""
        other = self._connections.get(name)
        if other is None:
            return
        if other.alive:
            raise Problem(409, "this stream is connected, and audio comes: end that connection first", 1)
        other.close(Close.DRAINED)
        await other.done.wait()

    async def _go_on(self, name: str, folder: Folder, received: int) -> tuple[Live, str, float]:
        one = folder.before(received)
        if one is None:
            oldest = min(folder.snapshots, default=folder.floor).output
            raise Problem(409, f"received is {received}, but the oldest snapshot of this stream is at {oldest}")
        asked, (plan, changes) = folder.asked, folder.plan_at(one)
        self._check_room(asked)
        last = changes[-1] if changes else Recorded(0, 0, plan)
        newer = self._newer(last.plan, max(one.input, last.at), folder.number)
        live = Live(name, asked, received, (*changes, *newer), folder.number + len(newer))
        self.hubs.take(live)
        try:
            await asyncio.to_thread(_warm, self._server.separator.sample_rate, asked.sample_rate)
            await live.hub.call(live.hub.join, live, plan)
            if one != Snapshot():
                template = await live.hub.call(lambda: live.session.state)
                state = await self.keeper.run(states.load, folder.path / one.name, template)
                await live.hub.call(live.hub.load, live, one.input, one.output, state)
            await self.keeper.run(self.keeper.go_on, live, folder, newer)
        except UssfastError as error:
            await self._release(live)
            raise Problem(409, f"this stream cannot be gone on with: {error}") from None
        except BaseException:
            await self._release(live)
            raise
        self._metrics.resumed.inc()
        hello = self._hello("resumed", live, next_input=one.input, next_output=received)
        return live, hello, time.perf_counter() - max(0.0, time.time() - folder.created)

    def _newer(self, plan: Plan, at: int, number: int) -> tuple[Recorded, ...]:
        """Vectors that prompts got while the stream was away, as one more change behind that number."""
        bank, newer = self._server.separator.prompts, plan
        for name in dict.fromkeys(name for name, _ in plan.keys):
            if name in bank:
                with suppress(UssfastError):
                    newer = newer.with_vector(name, bank[name].vector)
        same = states.vectors_of(newer).equal(states.vectors_of(plan))
        return () if same else (Recorded(number + 1, at, newer),)

    def _hello(self, kind: str, live: Live, **more: Any) -> str:
        asked, latency = live.asked, live.session.latency
        return text_of(
            kind, stream=live.id, sample_rate=asked.sample_rate, channels=asked.channels, format=asked.format,
            labels=live.labels, labels_id=0, latency_samples=round(latency * asked.sample_rate), latency_s=latency,
            deadline_ms=self._settings.deadline_ms, resume_s=self._settings.resume_s if asked.resumable else 0, **more,
        )  # fmt: skip

    async def _put_down(self, connection: Connection) -> None:
        live = connection.live
        try:
            taken = await live.hub.call(live.hub.leave, live)
            if live.asked.resumable and not (live.ended and connection.heard_all):
                await self.keeper.run(self.keeper.put_down, live, taken)
            else:
                await self.keeper.run(self.keeper.end, live)
        finally:
            self.hubs.release(live)
            if self._connections.get(live.id) is connection:
                del self._connections[live.id]
            connection.done.set()

    async def _release(self, live: Live) -> None:
        """Of a stream that did not begin."""
        self.hubs.release(live)
        await live.hub.call(live.hub.leave, live)
        await self.keeper.run(self.keeper.put_down, live, None)

    # In the background.

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now = time.perf_counter()
            for connection in list(self._connections.values()):
                connection.tick(now)

    async def _sweep(self) -> None:
        while True:
            await self.keeper.run(self.keeper.sweep, self._settings.resume_s)
            await asyncio.sleep(SWEEP_S)


def _warm(model_rate: int, rate: int) -> None:
    """Filters of conversions, which take up to a second the first time."""
    StreamResampler(1, rate, model_rate)
    StreamResampler(1, model_rate, rate)
