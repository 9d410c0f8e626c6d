"""What a separator does with live streams."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

from ussfast.engine.engine import Engine
from ussfast.errors import InputError
from ussfast.long_audio.policy import SegmentPolicy, live_policy
from ussfast.prompts.bank import Plan
from ussfast.separation import Separation
from ussfast.streaming.causal import CausalCore
from ussfast.streaming.pool import SessionPool
from ussfast.streaming.rows import CausalRows
from ussfast.streaming.session import PROMPTS, MakeCore, Session
from ussfast.streaming.sliding import SlidingCore


class LiveSeparator(ABC):
    """The live half of `Separator`; engine: with the model, policy: windows of models that are not causal."""

    engine: Engine
    policy: SegmentPolicy

    @property
    @abstractmethod
    def sample_rate(self) -> int:
        """The rate that the model works at, in Hz; input of any rate is converted."""

    @abstractmethod
    def _plan(self, prompts: Sequence[str] | str | None = None) -> Plan:
        """What these prompts, or the separator's own, ask for."""

    def stream(self, chunks: Iterable[Any], sample_rate: int | None = None, **settings: Any) -> Iterator[Separation]:
        """Separates a live stream.

        Args:
            chunks: arrays [samples] or [channels, samples] of any length, also empty.
            sample_rate: of the chunks, in Hz; by default the model's.
            settings: as for `session`.
        Yields:
            pieces in order and without gaps, as soon as they are complete; as many samples in all as went in.
        """
        session = self.session(sample_rate, **settings)  # what is wrong with the settings shows here, not in the loop

        def pieces() -> Iterator[Separation]:
            for chunk in chunks:
                piece = session.push(chunk)
                if piece.mixture.size:
                    yield piece
            rest = session.flush()
            if rest.mixture.size:
                yield rest

        return pieces()

    def session(
        self,
        sample_rate: int | None = None,
        *,
        prompts: Sequence[str] | str | None = None,
        channels: int | None = None,
        latency: float | None = None,
        max_prompts: int | None = None,
        on_bad: Literal["silence", "raise"] = "silence",
        threads: int = 1,
    ) -> Session:
        """A live stream to push chunks into.

        Args:
            sample_rate: of the chunks, in Hz; by default the model's.
            prompts: instead of the constructor's; `Session.set_prompts` changes them.
            channels: of the chunks; by default those of the first one.
            latency: in seconds, for models that are not causal: the trade with quality and cost, see
                docs/streaming-windows.md. By default the separator's windows, as for files. A causal model has its own.
            max_prompts: that the stream may ever have at once; at least 4, and as many as it begins with.
            on_bad: "silence" replaces chunks with samples that are not finite by silence and warns; "raise" refuses.
            threads: of the CPU.
        Raises:
            PromptError, InputError.
        """
        rate = self.sample_rate if sample_rate is None else sample_rate
        if threads < 1:
            raise InputError(f"threads must be at least 1, got {threads}")
        make_core = self._core_maker(latency, threads)
        return Session(make_core, self._plan, prompts, self.sample_rate, rate, channels, max_prompts, on_bad)

    def _core_maker(self, latency: float | None, threads: int) -> MakeCore:
        engine, causal = self.engine, self.engine.causal
        if causal is None:
            policy = self.policy if latency is None else live_policy(0, latency, self.policy.segment)
            return lambda channels, room, plan, slots: SlidingCore(
                engine, policy, channels, room, plan.vectors, slots, plan.groups, threads
            )
        if latency is not None:
            own = causal.config.latency_samples / causal.config.sample_rate
            raise InputError(f"latency is for models that are not causal; this one has {own:g} s of its own")
        return lambda channels, room, plan, slots: CausalCore(
            CausalRows(engine, 1, channels, room, threads), 0, plan.vectors, slots, plan.groups
        )

    def pool(
        self,
        size: int,
        sample_rate: int | None = None,
        *,
        channels: int = 1,
        max_prompts: int = 4,
        on_bad: Literal["silence", "raise"] = "silence",
        threads: int = 1,
    ) -> SessionPool:
        """Many streams through a causal model, computed together.

        Args:
            size: streams that there may be at once.
            sample_rate, channels, max_prompts, on_bad, threads: of all streams, as for `session`.
        Raises:
            InputError: a number below 1, or a model that is not causal.
        """
        engine, room = self.engine, max(max_prompts, PROMPTS)
        if engine.causal is None:
            raise InputError("a pool needs a causal model; open a session for each stream of this one")
        least = min(size, channels, max_prompts, threads)
        if least < 1:
            raise InputError(f"size, channels, max_prompts and threads must be at least 1, got {least}")
        rate = self.sample_rate if sample_rate is None else sample_rate
        rows = CausalRows(engine, size, channels, 2 * room, threads)

        def open_session(row: int, prompts: Sequence[str] | str | None) -> Session:
            count = len(self._plan(prompts).labels)
            if count > room:
                raise InputError(f"{count} prompts, but the pool has room for {room}: open it with max_prompts={count}")

            def make_core(channels: int, room: int, plan: Plan, slots: tuple[int, ...]) -> CausalCore:
                return CausalCore(rows, row, plan.vectors, slots, plan.groups)

            return Session(make_core, self._plan, prompts, self.sample_rate, rate, channels, room, on_bad)

        return SessionPool(rows, open_session)
