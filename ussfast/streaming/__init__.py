"""Live streams: sessions, many of them at once, and what they are made of."""

from collections.abc import Callable, Sequence
from typing import Literal

from ussfast.engine import Engine
from ussfast.errors import InputError
from ussfast.segments import SegmentPolicy
from ussfast.streaming.causal import CausalCore
from ussfast.streaming.core import Core
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.rows import CausalRows
from ussfast.streaming.session import PROMPTS, MakePlan, Session, SessionState

__all__ = ["Session", "SessionPool", "SessionState", "core_maker", "make_pool"]


def core_maker(
    engine: Engine, policy: SegmentPolicy, sources: int, latency: float | None, threads: int
) -> Callable[[int, int], Core]:
    """How to make a stream's core of so many channels and slots; InputError if the settings do not go with the model."""
    if threads < 1:
        raise InputError(f"threads must be at least 1, got {threads}")
    if engine.causal is not None:
        if latency is not None:
            fixed = engine.causal.config.latency_samples / engine.causal.config.sample_rate
            raise InputError(f"latency is for models that are not causal; this one has {fixed:g} s of its own")
        return lambda channels, slots: CausalCore(CausalRows(engine, 1, channels, slots, threads))
    raise InputError("X")


def make_pool(
    engine: Engine, make_plan: MakePlan, size: int, sample_rate: int, channels: int, max_prompts: int,
    on_bad: Literal["silence", "raise"], threads: int,
) -> SessionPool:  # fmt: skip
    """As `Separator.pool`."""
    if engine.causal is None:
        raise InputError("a pool needs a causal model; open a session for each stream of this one")
    if min(size, channels, max_prompts, threads) < 1:
        raise InputError(
            f"size, channels, max_prompts and threads must be at least 1, got {size}, {channels}, {max_prompts}, {threads}"
        )
    room, model_rate = max(max_prompts, PROMPTS), engine.causal.config.sample_rate

    def open_session(core: CausalCore, prompts: Sequence[str] | str | None) -> Session:
        count = len(make_plan(prompts).labels)
        if count > room:
            raise InputError(f"{count} prompts, but the pool was opened for {room}: open it with max_prompts={count}")
        return Session(
            lambda channels, slots: core, make_plan, prompts, model_rate, sample_rate, channels, room, on_bad
        )

    return SessionPool(CausalRows(engine, size, channels, 2 * room, threads), open_session)
