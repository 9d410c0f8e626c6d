"""A thread that computes live streams, those that are waiting together."""

import asyncio
import logging
import queue
import random
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from ussfast.errors import UssfastError
from ussfast.prompts.bank import Plan, Prompt
from ussfast.serve.streams.admission import Load
from ussfast.serve.streams.asking import done_by
from ussfast.serve.streams.live import Live, Out, Recorded, Taken
from ussfast.serve.streams.places import Places, hop_of
from ussfast.serve.streams.protocol import Asked, Change, Close, End, text_of
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.states import SessionState

if TYPE_CHECKING:
    from ussfast.separator import Separator
    from ussfast.serve.metrics import StreamMetrics

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

    def say(self, live: Live, out: Out) -> None:
        """Behind all answers."""


class Hub:
    """Streams are told that they have work by `notify`; all that touches sessions runs in `call`.

    Args:
        deadline_s: pieces that leave later than so after their last sample was due are late.
        snapshot_s: between snapshots of a stream.
    """

    def __init__(
        self, separator: "Separator", load: Load, metrics: "StreamMetrics", keeps: Keeps, deadline_s: float,
        snapshot_s: float, loop: asyncio.AbstractEventLoop,
    ):  # fmt: skip
        self._places, self._load, self._metrics, self._keeps = Places(separator), load, metrics, keeps
        self._deadline_s, self._snapshot_s, self._loop = deadline_s, snapshot_s, loop
        self._queue: queue.SimpleQueue[Live | Callable[[], None] | None] = queue.SimpleQueue()
        self._working: dict[Live, None] = {}
        self._outs: list[tuple[Live, list[Out]]] = []
        self._thread = threading.Thread(target=self._run, name="ussfast streams", daemon=True)

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
        return await done_by(self._queue, function, *arguments)

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
            except Exception:  # a bug: the thread must live on for all other streams
                log.exception("a turn of live streams failed")

    def _turn(self) -> None:
        chosen, ahead = self._chosen()
        for pool, lives in chosen.items():
            begun = time.perf_counter()
            try:
                audio_s = self._push(pool, lives)
            except Exception:
                log.exception("live streams failed")
                self._give_up(pool)
                continue
            finally:
                self._deliver()
            worked = time.perf_counter() - begun
            if audio_s:
                due = sum(live not in ahead for live in lives) / len(lives)
                self._load.note(worked, audio_s * lives[0].asked.channels, len(lives), due)
                self._metrics.step_seconds.observe(worked)
                self._metrics.seconds.inc(audio_s)
            for live in lives:
                if live.items and not live.ended:
                    self._working[live] = None
                self._maybe_snapshot(live)

    def _chosen(self) -> tuple[dict[SessionPool, list[Live]], set[Live]]:
        """Whose turn it is: all that are due, and a few of those that are ahead of real time; and which are."""
        latest, ahead = time.perf_counter() + AHEAD_S, set[Live]()
        chosen: dict[SessionPool, list[Live]] = {}
        for live in list(self._working):
            if live.items and live.pool is not None:
                if live.due > latest:
                    if len(ahead) == AHEAD_STREAMS:
                        continue
                    ahead.add(live)
                chosen.setdefault(live.pool, []).append(live)
            del self._working[live]  # to the end, if there is more to do
        return chosen, ahead

    def _push(self, pool: SessionPool, lives: list[Live]) -> float:
        """The next of each stream; returns seconds of audio."""
        rate, most = lives[0].asked.sample_rate, HOPS * hop_of(pool, lives[0].place)
        chunks: dict[int, np.ndarray] = {}
        due: dict[int, float] = {}
        for live in lives:
            self._commands(live)
            if not live.ended and (found := live.next_chunk(most)) is not None:
                chunks[live.place], due[live.place] = found
        if not chunks:
            return 0.0
        pieces = pool.push(chunks)
        now = time.perf_counter()
        for live in lives:
            if (piece := pieces.get(live.place)) is not None:
                late = now - due[live.place] - self._deadline_s
                if out := live.give(piece, late):
                    self._outs.append((live, out))
                    self._metrics.pieces.inc()
                    if late > 0:
                        self._metrics.late_pieces.inc()
        return sum(chunk.shape[1] for chunk in chunks.values()) / rate

    def _commands(self, live: Live) -> None:
        """What comes before the next chunk."""
        while live.items:
            if live.again and live.again[0].at <= live.taken:
                live.session.set_prompts(live.again.popleft().plan)
                continue
            first = live.items[0]
            if isinstance(first, Change):
                live.items.popleft()
                self._change(live, first.prompts)
            elif isinstance(first, End):
                live.items.clear()
                self._end(live)
            else:
                return

    def _change(self, live: Live, prompts: tuple[str, ...]) -> None:
        try:
            live.session.set_prompts(prompts)
        except UssfastError as error:
            self._outs.append((live, [Out(text_of("error", code="prompts", detail=str(error)))]))
            return
        plan = live.session.plan
        self._record(live, plan, text_of("prompts", at=live.taken, labels=plan.labels))

    def _record(self, live: Live, plan: Plan, answer: str) -> None:
        live.number += 1
        if live.asked.resumable:
            self._keeps.changed(live, Recorded(live.number, live.taken, plan), answer)
        else:
            self._outs.append((live, [Out(answer)]))

    def _end(self, live: Live) -> None:
        assert live.pool is not None
        live.ended = True
        out = live.give(live.pool.leave(live.place), -1.0)
        last = Out(text_of("ended", input=live.taken, output=live.given), 0.0, Close.ENDED)
        self._outs.append((live, out))
        self._places.leave(live)
        if live.asked.resumable:
            self._deliver()
            self._keeps.say(live, last)
        else:
            self._outs.append((live, [last]))

    def _deliver(self) -> None:
        outs, self._outs = self._outs, []
        if outs:
            self._loop.call_soon_threadsafe(_send, outs)

    def _maybe_snapshot(self, live: Live) -> None:
        now = time.perf_counter()
        if not live.asked.resumable or live.again or now - live.saved_at < self._snapshot_s:
            return
        if (taken := live.take()) is not None:
            live.saved_at = now
            self._keeps.snapshot(live, taken)

    def _give_up(self, pool: SessionPool) -> None:
        """A pool that failed may have taken some chunks and not others: its streams go on from their snapshots."""
        text = text_of("error", code="failed", detail="something went wrong in the server; its log says what")
        for live in self._places.give_up(pool):
            live.ended = True
            self._outs.append((live, [Out(text, 0.0, Close.OUR_FAULT)]))

    # In the hub's thread, through `call`.

    def join(self, live: Live, plan: Plan) -> None:
        """Gives a stream a place; PromptError, InputError."""
        self._places.join(live, plan)
        # Not all at the same time, where streams began together.
        live.saved_at = time.perf_counter() - self._snapshot_s * random.random()

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
        self._places.leave(live)
        return taken

    def swap(self, prompt: Prompt) -> None:
        """Another vector for what is called so, in all streams that ask for it."""
        for live in list(self._places.lives):
            plan = live.again[-1].plan if live.again else live.session.plan
            if all(name != prompt.name for name, _ in plan.keys):
                continue
            try:
                plan = plan.with_vector(prompt.name, prompt.vector)
                if live.again:
                    live.again.append(Recorded(live.number + 1, live.again[-1].at, plan))
                else:
                    live.session.set_prompts(plan)
            except UssfastError as error:
                log.warning("a stream keeps its %s: %s", prompt.name, error)
                continue
            self._record(live, plan, text_of("swapped", prompt=prompt.name))
        self._deliver()

    def trial(self, asked: Asked, prompts: tuple[str, ...], seconds: float) -> None:
        """Measures what streams cost before there are any."""
        self._load.tried(self._places.trial(asked, prompts, seconds))


def _send(outs: list[tuple[Live, list[Out]]]) -> None:
    """In the loop's thread."""
    for live, out in outs:
        for one in out:
            live.send(one)
