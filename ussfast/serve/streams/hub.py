"""The thread that computes all live streams, those that are waiting together."""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ussfast.errors import UssfastError
from ussfast.prompts.bank import Plan, Prompt
from ussfast.serve.streams.admission import Load
from ussfast.serve.streams.live import Live, Out, Recorded, Taken
from ussfast.serve.streams.protocol import MOST_PROMPTS, Asked, Change, Close, End, text_of
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.states import SessionState

if TYPE_CHECKING:
    from ussfast.separator import Separator
    from ussfast.serve.metrics import StreamMetrics

ROWS = 16  # channels of a pool: what is computed together costs less up to about so many
HOPS = 2  # of a stream in one turn, so that what comes in a burst does not delay others
AHEAD_S = 0.05  # what is due later than so waits for what is due
AHEAD_STREAMS = 2  # of these in a turn
T = TypeVar("T")
log = logging.getLogger("ussfast.serve")


class Keeps(Protocol):
    """Where what streams remember is written to; nothing of it waits for a disk."""

    def snapshot(self, live: Live, taken: Taken) -> None: ...

    def changed(self, live: Live, change: Recorded, answer: str) -> None:
        """answer: for the client once it is written."""


class Hub:
    """Streams are told that they have work by `notify`; all that touches sessions runs in `call`.

    Args:
        deadline_s: pieces that leave later than so after their last sample was due are late.
        snapshot_s: between snapshots of a stream.
    """

    def __init__(
        self, separator: "Separator", load: Load, metrics: "StreamMetrics", keeps: Keeps, threads: int,
        deadline_s: float, snapshot_s: float, loop: asyncio.AbstractEventLoop,
    ):  # fmt: skip
        self._separator, self._load, self._metrics, self._keeps = separator, load, metrics, keeps
        self._threads, self._deadline_s, self._snapshot_s, self._loop = threads, deadline_s, snapshot_s, loop
        self._queue: queue.SimpleQueue[Live | Callable[[], None] | None] = queue.SimpleQueue()
        self._pools: dict[tuple[int, int], list[SessionPool]] = {}
        self._lives: set[Live] = set()
        self._working: dict[Live, None] = {}
        self._outs: list[tuple[Live, list[Out]]] = []
        self._thread = threading.Thread(target=self._run, name="ussfast streams", daemon=True)
        self._ended = False

    # Any thread.

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._queue.put(None)
        self._thread.join(10)

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def notify(self, live: Live) -> None:
        """There is something to do for a stream."""
        self._queue.put(live)

    async def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """What a function returns in the hub's thread."""
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function(*arguments))
            except BaseException as error:  # belongs to who called
                future.set_exception(error)

        self._queue.put(run)
        return await asyncio.wrap_future(future)

    # The hub's thread.

    def _run(self) -> None:
        get, get_nowait, working = self._queue.get, self._queue.get_nowait, self._working
        while True:
            try:
                item = get_nowait() if working else get()
                while True:
                    if item is None:
                        return
                    if isinstance(item, Live):
                        working[item] = None
                    else:
                        item()
                    item = get_nowait()
            except queue.Empty:
                pass
            try:
                self._turn()
            except BaseException:  # a bug: the thread must live on for all other streams
                log.exception("a turn of live streams failed")

    def _turn(self) -> None:
        now = time.perf_counter()
        chosen: list[Live] = []
        ahead: list[Live] = []
        for live in list(self._working):
            if live.pool is None or not (live.items or live.again):
                del self._working[live]
            elif not live.items or live.due <= now + AHEAD_S:
                chosen.append(live)
            elif len(ahead) < AHEAD_STREAMS:
                ahead.append(live)
        groups: dict[SessionPool, dict[Live, None]] = {}
        for live in (*chosen, *ahead):
            assert live.pool is not None
            groups.setdefault(live.pool, {})[live] = None
            del self._working[live]  # to the end, if there is more to do
        for pool, lives in groups.items():
            begun = time.perf_counter()
            try:
                audio_s = self._push(pool, list(lives))
            except Exception:
                log.exception("live streams failed")
                self._give_up(pool)
                continue
            finally:
                self._deliver()
            worked = time.perf_counter() - begun
            self._load.note(worked, audio_s)
            if audio_s:
                self._metrics.step_seconds.observe(worked)
                self._metrics.seconds.inc(audio_s / max(1, next(iter(lives)).asked.channels))
            for live in lives:
                if live.items and not live.ended:
                    self._working[live] = None
                if live.asked.resumable and not live.ended:
                    self._maybe_snapshot(live)

    def _push(self, pool: SessionPool, lives: list[Live]) -> float:
        """The next of each stream; returns seconds of audio, of all channels."""
        asked = lives[0].asked
        hop = round(pool[lives[0].place].hop_seconds * asked.sample_rate)
        chunks: dict[int, np.ndarray] = {}
        due: dict[int, float] = {}
        for live in lives:
            self._commands(live)
            if not live.ended and (found := live.next_chunk(HOPS * hop)) is not None:
                chunks[live.place], due[live.place] = found
        if not chunks:
            return 0.0
        pieces = pool.push(chunks)
        now = time.perf_counter()
        for live in lives:
            piece = pieces.get(live.place)
            if piece is None:
                continue
            late = now - due[live.place] - self._deadline_s
            out = live.give(piece, late)
            if out:
                self._metrics.pieces.inc()
                if late > 0:
                    self._metrics.late_pieces.inc()
                self._outs.append((live, out))
        return sum(chunk.size for chunk in chunks.values()) / asked.sample_rate

    def _commands(self, live: Live) -> None:
        """What comes before the next chunk."""
        while True:
            if live.again and live.again[0].at <= live.taken:
                live.session.set_prompts(live.again.popleft().plan)
            elif live.items and isinstance(live.items[0], Change):
                self._change(live, live.items.popleft().prompts)  # type: ignore[union-attr]
            elif live.items and isinstance(live.items[0], End):
                live.items.clear()
                self._end(live)
                return
            else:
                return

    def _change(self, live: Live, prompts: tuple[str, ...]) -> None:
        try:
            live.session.set_prompts(prompts)
        except UssfastError as error:
            self._say(live, text_of("error", code="prompts", detail=str(error)))
            return
        plan = live.session.plan
        self._record(live, plan, text_of("prompts", at=live.taken, labels=plan.labels))

    def _record(self, live: Live, plan: Plan, answer: str) -> None:
        live.number += 1
        if live.asked.resumable:
            self._keeps.changed(live, Recorded(live.number, live.taken, plan), answer)
        else:
            self._say(live, answer)

    def _say(self, live: Live, text: str) -> None:
        self._outs.append((live, [Out(text)]))

    def _end(self, live: Live) -> None:
        assert live.pool is not None
        live.ended = True
        self._outs.append((live, live.give(live.pool.leave(live.place), -1.0)))
        self._outs.append((live, [Out(text_of("ended", input=live.taken, output=live.given), 0.0, Close.ENDED)]))
        self._forget(live)

    def _forget(self, live: Live) -> None:
        live.pool = None
        self._lives.discard(live)
        for key, pools in list(self._pools.items()):
            # One of each kind stays only as long as it is used, but for the first.
            kept = [pool for number, pool in enumerate(pools) if len(pool) or (number == 0 and len(self._pools) < 4)]
            if kept:
                self._pools[key] = kept
            else:
                del self._pools[key]

    def _deliver(self) -> None:
        outs, self._outs = self._outs, []
        if outs:
            self._loop.call_soon_threadsafe(_send, outs)

    def _maybe_snapshot(self, live: Live) -> None:
        now = time.perf_counter()
        if now - live.saved_at < self._snapshot_s or live.again:
            return
        if (taken := live.take()) is not None:
            live.saved_at = now
            self._keeps.snapshot(live, taken)

    def _give_up(self, pool: SessionPool) -> None:
        """A pool that failed may have taken some chunks and not others."""
        for live in [live for live in self._lives if live.pool is pool]:
            live.ended = True
            text = text_of("error", code="failed", detail="something went wrong in the server; its log says what")
            self._outs.append((live, [Out(text, 0.0, Close.OUR_FAULT)]))
            live.pool = None
            self._lives.discard(live)
        for key, pools in self._pools.items():
            self._pools[key] = [other for other in pools if other is not pool]

    # In the hub's thread, through `call`.

    def join(self, live: Live, plan: Plan | tuple[str, ...] | None) -> Plan:
        """Gives a stream a place; PromptError, InputError. Returns what it is separated by."""
        asked = live.asked
        pool = self._pool_for(asked)
        live.place = pool.join(plan)
        live.pool = pool
        live.labels = live.session.labels
        live.saved_at = time.perf_counter() - self._snapshot_s * np.random.default_rng().random()
        self._lives.add(live)
        return live.session.plan

    def load(self, live: Live, input: int, output: int, state: SessionState) -> None:
        """Goes on from a snapshot; InputError if it does not fit."""
        live.session.state = state
        live.received = live.taken = input
        live.given = output

    def leave(self, live: Live) -> Taken | None:
        """Takes its place from a stream whose connection is gone; returns what it remembers, if that is all."""
        if live.pool is None:
            return None
        taken = live.take() if live.asked.resumable and not live.again else None
        live.pool.leave(live.place)
        self._forget(live)
        return taken

    def swap(self, prompt: Prompt) -> None:
        """Another vector for what is called so, in all streams that ask for it."""
        for live in list(self._lives):
            plan = live.session.plan
            if all(name != prompt.name for name, _ in plan.keys):
                continue
            try:
                live.session.set_prompts(plan.with_vector(prompt.name, prompt.vector))
            except UssfastError as error:
                log.warning("a stream keeps its %s: %s", prompt.name, error)
                continue
            self._record(live, live.session.plan, text_of("swapped", prompt=prompt.name))
        self._deliver()

    def _pool_for(self, asked: Asked) -> SessionPool:
        pools = self._pools.setdefault((asked.sample_rate, asked.channels), [])
        size = max(1, ROWS // asked.channels)
        for pool in pools:
            if len(pool) < size:
                return pool
        pools.append(
            self._separator.pool(
                size, asked.sample_rate, channels=asked.channels, max_prompts=MOST_PROMPTS, threads=self._threads
            )
        )
        return pools[-1]

    def trial(self, asked: Asked, prompts: tuple[str, ...], seconds: float) -> None:
        """Measures what streams cost before there are any."""
        pool = self._pool_for(asked)
        places = [pool.join(prompts) for _ in range(ROWS // 2)]
        hop = round(pool[places[0]].hop_seconds * asked.sample_rate)
        noise = 0.1 * np.random.default_rng(0).standard_normal((asked.channels, hop)).astype(np.float32)
        pool.push(dict.fromkeys(places, noise))  # memory is taken
        times = []
        for _ in range(max(1, round(seconds * asked.sample_rate / hop))):
            begun = time.perf_counter()
            pool.push(dict.fromkeys(places, noise))
            times.append(time.perf_counter() - begun)
        for place in places:
            pool.leave(place)
        audio_s = len(places) * asked.channels * hop / asked.sample_rate
        self._load.cost = float(np.median(times)) / audio_s


def _send(outs: list[tuple[Live, list[Out]]]) -> None:
    """In the loop's thread."""
    for live, out in outs:
        for one in out:
            live.send(one)
