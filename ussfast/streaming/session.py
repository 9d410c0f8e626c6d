"""One live stream: chunks of any size in, separated pieces out, in order and without gaps."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch

from ussfast.audio import as_samples
from ussfast.audio.remix import Remix
from ussfast.engine.levels import LOUDEST
from ussfast.engine.nested import counted, fit
from ussfast.errors import InputError
from ussfast.prompts.bank import Plan
from ussfast.separation import Separation
from ussfast.streaming import states
from ussfast.streaming.core import Core
from ussfast.streaming.learning import Learns, Teacher
from ussfast.streaming.presence import Presence
from ussfast.streaming.rooted import Rooted
from ussfast.streaming.stages import Stages
from ussfast.streaming.states import SessionState
from ussfast.streaming.tracks import Tracks

PROMPTS = 4  # that a session has room for at least

MakeCore = Callable[[int, int, Plan, tuple[int, ...]], Core]  # channels, slots there are, what to separate into which
MakePlan = Callable[[Sequence[str] | str | Plan | None], Plan]


class Session(Learns, Rooted):
    """A stream of one recording; made by `Separator.session`.

    Use as a context manager, or not: there is nothing to release, unless it is to learn (`tune`).

    Attributes: sample_rate (of input and output, in Hz), channels (as they were said, or None).
    """

    def __init__(
        self,
        make_core: MakeCore,
        make_plan: MakePlan,
        prompts: Sequence[str] | str | Plan | None,
        model_rate: int,
        sample_rate: int,
        channels: int | None,
        max_prompts: int | None,
        on_bad: Literal["silence", "raise"],
        remix: Remix,
        teacher: Teacher,
    ):
        if on_bad not in ("silence", "raise"):
            raise InputError(f"on_bad must be 'silence' or 'raise', got {on_bad!r}")
        if channels is not None and channels < 1:
            raise InputError(f"channels must be at least 1, got {channels}")
        self._make_core, self._make_plan, self._on_bad = make_core, make_plan, on_bad
        self._set_up_learning(teacher)
        self.sample_rate, self._model_rate, self.channels = sample_rate, model_rate, channels
        plan = make_plan(prompts)
        self.max_prompts = max(PROMPTS, len(plan.labels), max_prompts or 0)
        self._tracks = Tracks(plan, 2 * self.max_prompts)
        self._presence = Presence(remix, self._tracks.count)
        self._stages = self._staged(channels or 1, self._tracks.slots)
        self._begin()

    def _staged(self, channels: int, slots: tuple[int, ...]) -> Stages:
        room = self._tracks.count
        core = self._make_core(channels, room, self._tracks.plan, slots)
        return Stages(core, channels, room, self.sample_rate, self._model_rate)

    def _begin(self) -> None:
        self._mixture = np.zeros((self._stages.channels, 0), np.float32)
        self._tracks.begin(self._tracks.slots)
        self._presence.begin(self._tracks.slots)
        self._closed = False

    @property
    def core(self) -> Core:
        """What works at the model's rate."""
        return self._stages.core

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the stems, in order; repeated prompts are numbered."""
        return self._tracks.plan.labels

    @property
    def plan(self) -> Plan:
        """What is separated now, by name and vector; `set_prompts` takes one too."""
        return self._foreseen()

    @property
    def settled(self) -> bool:
        """Whether nothing of former prompts is still to be heard, so that `state` is all there is."""
        return not self._tracks.former

    @property
    def latency(self) -> float:
        """Seconds from a sample of the input to the same one of the output, conversions of the rate included."""
        return self._stages.latency

    @property
    def hop_seconds(self) -> float:
        """Seconds of audio that are computed at once."""
        return self.core.hop / self._model_rate

    def push(self, chunk: Any) -> Separation:
        """Takes what follows in the stream.

        Args:
            chunk: array or tensor [samples] or [channels, samples], any number of samples; not modified. Integers are
                scaled as for `Separator.separate`.
        Returns:
            what is complete now, perhaps nothing: stems [labels, channels, samples] at the stream's rate, and the
            mixture that they belong to. After `set_prompts`, a piece may also have stems of former prompts, last.
        Raises:
            InputError, AudioError: another number of channels, another type, a chunk after `flush` or `close`, or,
                with on_bad="raise", samples that are not finite. Nothing has changed then.
        """
        audio = self.take(self.checked(chunk))  # which may make another core for the channels of the first chunk
        return self.give(self.core.push(audio))

    def flush(self) -> Separation:
        """Ends the stream: the rest, so that as many samples came out as went in. `reset` begins another one."""
        self.core.check_open()
        if self._closed:
            return self._piece(np.zeros((len(self._tracks.heard), self._stages.channels, 0), np.float32))
        self._closed = True
        self._catch_up()
        return self._piece(self._stages.flush(self._tracks.heard))

    def pieces(self, chunks: Iterable[Any]) -> Iterator[Separation]:
        """Pushes chunks and flushes: what is complete, piece by piece, without empty ones."""
        for chunk in chunks:
            piece = self.push(chunk)
            if piece.mixture.size:
                yield piece
        rest = self.flush()
        if rest.mixture.size:
            yield rest

    def checked(self, chunk: Any) -> np.ndarray:
        """The first part of `push`: float32 [channels, n] as it will be taken, or an error."""
        self.core.check_open()
        if self._closed:
            raise InputError("the stream has ended: call reset() to begin another one")
        expected = self.channels or (self._stages.channels if self._stages.taken else None)
        audio = as_samples(chunk, "chunk", expected)
        if expected not in (None, len(audio)):
            raise InputError(f"this stream has {expected} channels, the chunk {len(audio)}")
        sizes = np.abs(audio)
        if sizes.max(initial=0) <= LOUDEST:  # not so of NaN
            return audio
        bad = int((~(sizes <= LOUDEST)).sum())
        if self._on_bad == "raise":
            raise InputError(f"chunk: {bad} samples are NaN, infinite or beyond {LOUDEST:g}; full scale is 1")
        warnings.warn(
            f"a chunk of {audio.shape[1]} samples was silenced: {bad} of them are NaN, infinite or beyond {LOUDEST:g}",
            RuntimeWarning,
            stacklevel=3,
        )
        return np.zeros_like(audio)

    def take(self, audio: np.ndarray) -> np.ndarray:
        """The second part: at the model's rate."""
        self._catch_up()
        if len(audio) != self._stages.channels:
            self._stages = self._staged(len(audio), self._tracks.slots)
            self._begin()
        self._mixture = np.concatenate((self._mixture, audio), 1)
        return self._stages.take(audio)

    def give(self, ready: np.ndarray) -> Separation:
        """The last part: a piece, from what the core returned."""
        return self._piece(self._stages.give(ready, self._tracks.heard))

    def _piece(self, heard: np.ndarray) -> Separation:
        count = heard.shape[-1]
        mixture, self._mixture = self._mixture[:, :count], self._mixture[:, count:].copy()
        slots, labels = self._tracks.heard, self._tracks.labels
        stems = self._presence.apply(heard, mixture, slots)
        self._tracks.go_on(count)
        return Separation(labels, stems, self.sample_rate, mixture)

    def set_prompts(self, prompts: Sequence[str] | str | Plan) -> None:
        """Separates what follows by other prompts: names in the separator's bank, also ones added meanwhile, or a plan.

        Stems that go on are not interrupted; former ones fade out and new ones fade in where the next hop begins.

        Raises:
            PromptError, InputError: unknown prompts, or more than `max_prompts`; nothing has changed then.
        """
        superseded = len(self._replaced)  # what replaces a vector from now on is newer than what the bank has
        plan = self._make_plan(prompts)
        if len(plan.labels) > self.max_prompts:
            raise InputError(
                f"{len(plan.labels)} prompts, but this session was opened for {self.max_prompts} at most: open it with "
                f"max_prompts={len(plan.labels)}"
            )
        slots, fade = self._tracks.places(plan), self._stages.fade
        self.core.set_prompts(plan.vectors, slots, plan.groups)
        self._tracks.change(plan, slots, fade)
        self._presence.change(slots, fade)
        for _ in range(superseded):
            self._replaced.popleft()

    def reset(self) -> None:
        """Forgets all audio and begins another stream with the same prompts."""
        self._stages.reset()
        self._begin()

    def close(self) -> None:
        """Ends the stream without its rest, and what `tune` does for it: the best prompts so far are kept."""
        self._closed = True
        self._stop_learning()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def state(self) -> SessionState:
        """A copy of all that this session remembers. To go on elsewhere, open a session with the same settings and
        prompts and assign it there: its output continues bit for bit. Former prompts that are still fading out are not
        in it; that of a stream that has ended is of one that begins.

        Raises, when it is assigned:
            InputError: it is no state, or of a session with other settings, other prompts or prompts that mean
                something else, or it cannot be of any. Nothing has changed then.
        """
        stages, plan = self._stages, self._tracks.plan
        return SessionState(
            states.written(plan.labels), states.vectors_of(plan), self._rates, torch.tensor(self._tracks.slots),
            self.core.state, stages.incoming.state, stages.outgoing.state, torch.from_numpy(self._mixture.copy()),
        )  # fmt: skip

    @state.setter
    def state(self, state: SessionState) -> None:
        self.core.check_open()
        self._catch_up()
        plan = self._tracks.plan
        states.check_asked(plan, state)
        channels = states.channels_of(state, self.channels)
        slots = states.slots_of(state, len(plan.labels), self._tracks.count)
        stages = self._stages if channels == self._stages.channels else self._staged(channels, slots)
        fit(self._after(counted(state.incoming, "taken"), stages, state.slots), state)
        self._stages = stages
        stages.core.set_prompts(plan.vectors, slots, plan.groups)
        stages.load(state.core, state.incoming, state.outgoing)
        self._tracks.begin(slots)
        self._begin()
        self._mixture = state.mixture.detach().cpu().numpy().copy()

    def _after(self, taken: int, stages: Stages, slots: torch.Tensor) -> SessionState:
        """What `state` is like after so many samples, all of it known but for what the samples were."""
        plan, mixture = self._tracks.plan, torch.zeros(stages.channels, taken - stages.given(taken))
        return SessionState(
            states.written(plan.labels), states.vectors_of(plan), self._rates, slots, *stages.after(taken), mixture
        )

    @property
    def _rates(self) -> torch.Tensor:
        return torch.tensor([self.sample_rate, self._model_rate])

    def save(self, path: str | Path) -> None:
        """Writes the state as a safetensors file."""
        states.save(Path(path), self.state)

    def load(self, path: str | Path) -> None:
        """Goes on from a file of `save`; InputError if it is none, or as for `state`."""
        self.state = states.load(path, self.state)
