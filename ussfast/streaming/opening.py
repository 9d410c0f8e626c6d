"""Opens live streams on an engine: one by itself, or many that are computed together."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

from ussfast.engine.engine import Engine
from ussfast.engine.threads import check_threads
from ussfast.errors import InputError
from ussfast.long_audio.policy import live_policy
from ussfast.prompts.bank import Plan, as_names
from ussfast.streaming.causal import CausalCore
from ussfast.streaming.learning import Teacher
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.rows import CausalRows
from ussfast.streaming.session import PROMPTS, MakeCore, Session
from ussfast.streaming.sliding import SlidingCore
from ussfast.values import one_of, whole

MakePlan = Callable[[Sequence[str] | str | Plan | None], Plan]  # from prompts, None for those that are asked for by default
OnBad = Literal["silence", "raise"]
ON_BAD = ("silence", "raise")


# What there may be at once: far more than a machine computes in time, and less than takes all its memory.
MOST_CHANNELS, MOST_PROMPTS, MOST_STREAMS, MOST_TRACKS = 1024, 256, 16384, 1 << 17


def _channels(channels: Any) -> int:
    return whole(channels, "channels", 1, MOST_CHANNELS)


def _max_prompts(max_prompts: Any) -> int:
    return whole(max_prompts, "max_prompts", 1, MOST_PROMPTS)


def _fits(rows: int, prompts: int) -> None:
    if rows * prompts > MOST_TRACKS:
        raise InputError(f"{rows} channels in all with {prompts} prompts each are more than {MOST_TRACKS} together")


def open_session(
    engine: Engine, make_plan: MakePlan, rate: int, prompts: Sequence[str] | str | None, channels: int | None,
    latency: float | None, max_prompts: int | None, on_bad: OnBad, threads: int, teacher: Teacher,
) -> Session:  # fmt: skip
    """See `Separator.session`; rate: of the chunks, in Hz."""
    threads, channels = check_threads(threads), None if channels is None else _channels(channels)
    max_prompts = None if max_prompts is None else _max_prompts(max_prompts)
    one_of(on_bad, "on_bad", ON_BAD)
    _fits(channels or 1, max_prompts or 1)
    make_core = _core_maker(engine, latency, threads)
    own = engine.model.config.sample_rate
    return Session(make_core, make_plan, prompts, own, rate, channels, max_prompts, on_bad, engine.remix, teacher)


def _core_maker(engine: Engine, latency: float | None, threads: int) -> MakeCore:
    causal = engine.causal
    if causal is None:
        policy = engine.policy if latency is None else live_policy(0, latency, engine.policy.segment)
        return lambda channels, room, plan, slots: SlidingCore(
            engine, policy, channels, room, plan.vectors, slots, plan.groups, threads
        )
    if latency is not None:
        own = causal.config.latency_samples / causal.config.sample_rate
        raise InputError(f"latency is for models that are not causal; this one has {own:g} s of its own")
    return lambda channels, room, plan, slots: CausalCore(
        CausalRows(engine, 1, channels, room, threads), 0, plan.vectors, slots, plan.groups
    )


def open_pool(
    engine: Engine, make_plan: MakePlan, size: int, rate: int, channels: int, max_prompts: int, on_bad: OnBad,
    threads: int, teacher: Teacher,
) -> SessionPool:  # fmt: skip
    """See `Separator.pool`; rate: of the chunks, in Hz."""
    if engine.causal is None:
        raise InputError("a pool needs a causal model; open a session for each stream of this one")
    size, threads = whole(size, "size", 1, MOST_STREAMS), check_threads(threads)
    channels, room = _channels(channels), max(_max_prompts(max_prompts), PROMPTS)
    one_of(on_bad, "on_bad", ON_BAD)
    _fits(size * channels, room)
    rows = CausalRows(engine, size, channels, 2 * room, threads)

    def open_one(row: int, prompts: Sequence[str] | str | Plan | None) -> Session:
        prompts = prompts if prompts is None or isinstance(prompts, Plan) else as_names(prompts)
        count = len(make_plan(prompts).labels)
        if count > room:
            raise InputError(f"{count} prompts, but the pool has room for {room}: open it with max_prompts={count}")

        def make_core(channels: int, room: int, plan: Plan, slots: tuple[int, ...]) -> CausalCore:
            return CausalCore(rows, row, plan.vectors, slots, plan.groups)

        own = engine.model.config.sample_rate
        return Session(make_core, make_plan, prompts, own, rate, channels, room, on_bad, engine.remix, teacher)

    return SessionPool(rows, open_one)
