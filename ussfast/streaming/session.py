"""One live stream: chunks of any size in, separated pieces out, in order and without gaps."""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ussfast.audio import as_samples
from ussfast.audio.atomic import atomic_write
from ussfast.audio.remix import Remix
from ussfast.engine.nested import like, tensors_of
from ussfast.errors import InputError
from ussfast.prompts.bank import Plan
from ussfast.separation import Separation
from ussfast.streaming.core import Core
from ussfast.streaming.presence import Presence
from ussfast.streaming.resampler import ResamplerState, StreamResampler
from ussfast.streaming.rooted import Rooted

PROMPTS = 4  # that a session has room for at least
LOUDEST = 1e10  # full scale is 1: what is beyond is damage, and sums of it would overflow

MakeCore = Callable[[int, int, Plan, tuple[int, ...]], Core]  # channels, slots there are, what to separate into which
MakePlan = Callable[[Sequence[str] | str | None], Plan]


@dataclass(frozen=True)
class SessionState:
    """All that a session remembers; tensors only.

    core: of the model. incoming, outgoing: of the conversions to the model's rate and back. mixture: [channels, n]
    input whose stems are still to come. vectors: [sources, dim], empty for models without prompts. slots: int64
    [sources], tracks that the sources are in.
    """

    core: Any
    incoming: ResamplerState
    outgoing: ResamplerState
    mixture: Tensor
    vectors: Tensor
    slots: Tensor


class Session(Rooted):
    """A stream of one recording; made by `Separator.session`.

    Use as a context manager, or not: there is nothing to release.

    Attributes: sample_rate (of input and output, in Hz), channels (as they were said, or None), core (what works at the
        model's rate).
    """

    def __init__(
        self,
        make_core: MakeCore,
        make_plan: MakePlan,
        prompts: Sequence[str] | str | None,
        model_rate: int,
        sample_rate: int,
        channels: int | None,
        max_prompts: int | None,
        on_bad: Literal["silence", "raise"],
        remix: Remix,
    ):
        if on_bad not in ("silence", "raise"):
            raise InputError(f"on_bad must be 'silence' or 'raise', got {on_bad!r}")
        if channels is not None and channels < 1:
            raise InputError(f"channels must be at least 1, got {channels}")
        self._make_core, self._make_plan, self._on_bad = make_core, make_plan, on_bad
        self.sample_rate, self._model_rate, self.channels = sample_rate, model_rate, channels
        self._plan = make_plan(prompts)
        self.max_prompts = max(PROMPTS, len(self._plan.labels), max_prompts or 0)
        # Twice as many tracks as prompts: all may change at once, and the former ones fade out.
        self._slots = tuple(range(len(self._plan.labels)))
        self._room = 2 * self.max_prompts
        self._presence = Presence(remix, self._room)
        self._open(channels or 1)

    def _open(self, channels: int) -> None:
        self._incoming = StreamResampler(channels, self.sample_rate, self._model_rate)
        self._outgoing = StreamResampler(self._room * channels, self._model_rate, self.sample_rate)
        self.core = self._make_core(channels, self._room, self._plan, self._slots)
        self._opened = channels
        self._begin()

    def _begin(self) -> None:
        self._mixture = np.zeros((self._opened, 0), np.float32)
        self._taken = 0
        # Former sources that still fade out: slot -> label, and samples at the model's rate that are left of it.
        self._leaving: dict[int, tuple[str, int]] = {}
        self._presence.begin(self._slots)
        self._closed = False

    @property
    def labels(self) -> tuple[str, ...]:
        """Of the stems, in order; repeated prompts are numbered."""
        return self._plan.labels

    @property
    def latency(self) -> float:
        """Seconds from a sample of the input to the same one of the output, conversions of the rate included."""
        ours = self._incoming.delay / self.sample_rate
        return ours + (self.core.latency + self._outgoing.delay) / self._model_rate

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
        if self._closed or not self._taken:
            self._closed = True
            return self._piece(torch.zeros(self._room * self._opened, 0))
        self._closed = True
        last = self._run(self._incoming.flush())
        rest = torch.from_numpy(self.core.flush()).flatten(0, 1)
        first = self._outgoing.push(torch.cat((last, rest), 1))
        return self._piece(torch.cat((first, self._outgoing.flush(self._taken)), 1))

    def pieces(self, chunks: Iterable[Any]) -> Iterator[Separation]:
        """Pushes chunks and flushes: what is complete, piece by piece, without empty ones."""
        for chunk in chunks:
            piece = self.push(chunk)
            if piece.mixture.size:
                yield piece
        rest = self.flush()
        if rest.mixture.size:
            yield rest

    def _run(self, audio: Tensor) -> Tensor:
        """[channels, n] at the model's rate -> [slots * channels, m]."""
        return torch.from_numpy(self.core.push(audio.numpy())).flatten(0, 1)

    def checked(self, chunk: Any) -> np.ndarray:
        """The first part of `push`: float32 [channels, n] as it will be taken, or an error."""
        if self._closed:
            raise InputError("the stream has ended: call reset() to begin another one")
        audio = as_samples(chunk, "chunk")
        expected = self.channels or (None if not self._taken else self._opened)
        if expected not in (None, len(audio)):
            raise InputError(f"this stream has {expected} channels, the chunk {len(audio)}")
        bad = int((~(np.abs(audio) <= LOUDEST)).sum())
        if not bad:
            return audio
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
        if len(audio) != self._opened:
            self._open(len(audio))
        self._taken += audio.shape[1]
        self._mixture = np.concatenate((self._mixture, audio), 1)
        return self._incoming.push(torch.from_numpy(audio)).numpy()

    def give(self, ready: np.ndarray) -> Separation:
        """The last part: a piece, from what the core returned."""
        return self._piece(self._outgoing.push(torch.from_numpy(ready).flatten(0, 1)))

    def _piece(self, ready: Tensor) -> Separation:
        count = ready.shape[1]
        mixture, self._mixture = self._mixture[:, :count], self._mixture[:, count:].copy()
        slots = [*self._slots, *self._leaving]
        labels = (*self._plan.labels, *(label for label, _ in self._leaving.values()))
        # Not by torch, where choosing rows takes ten times as long.
        stems = self._presence.apply(ready.numpy().reshape(self._room, self._opened, count)[slots], mixture, slots)
        spent = count * self._model_rate // self.sample_rate
        self._leaving = {s: (label, left - spent) for s, (label, left) in self._leaving.items() if left > spent}
        return Separation(labels, stems, self.sample_rate, mixture)

    def set_prompts(self, prompts: Sequence[str] | str) -> None:
        """Separates what follows by other prompts: names in the separator's bank, also ones added meanwhile.

        Stems that go on are not interrupted; former ones fade out and new ones fade in where the next hop begins.

        Raises:
            PromptError, InputError: unknown prompts, or more than `max_prompts`; nothing has changed then.
        """
        plan = self._make_plan(prompts)
        if len(plan.labels) > self.max_prompts:
            raise InputError(
                f"{len(plan.labels)} prompts, but this session was opened for {self.max_prompts} at most: open it with "
                f"max_prompts={len(plan.labels)}"
            )
        before = dict(zip(self._plan.keys, self._slots, strict=True))
        kept = {before[key] for key in plan.keys if key in before}
        # Slots whose source is still fading out are taken last, those that faded longest first.
        free = [s for s in range(self._room) if s not in before.values() and s not in self._leaving]
        free += [s for s in self._leaving if s not in kept]
        slots = tuple(before[key] if key in before else free.pop(0) for key in plan.keys)
        self.core.set_prompts(plan.vectors, slots, plan.groups)
        fade = self.core.fade + self._outgoing.delay + self.core.hop
        # Also those that fade out already: their shares of the mixture set out anew with all others'.
        ended = {s: label for s, (label, _) in self._leaving.items()}
        ended |= dict(zip(self._slots, self._plan.labels, strict=True))
        self._leaving = {s: (label, fade) for s, label in ended.items() if s not in slots}
        self._presence.change(slots, fade * self.sample_rate // self._model_rate)
        self._plan, self._slots = plan, slots

    def reset(self) -> None:
        """Forgets all audio and begins another stream with the same prompts."""
        self.core.reset()
        self._incoming.reset()
        self._outgoing.reset()
        self._begin()

    def close(self) -> None:
        """Ends the stream without its rest."""
        self._closed = True

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
        in it."""
        vectors = torch.zeros(0, 0) if self._plan.vectors is None else self._plan.vectors.detach().cpu().clone()
        return SessionState(
            self.core.state, self._incoming.state, self._outgoing.state,
            torch.from_numpy(self._mixture.copy()), vectors, torch.tensor(self._slots),
        )  # fmt: skip

    @state.setter
    def state(self, state: SessionState) -> None:
        channels, slots = len(state.mixture), tuple(state.slots.tolist())
        if self.channels not in (None, channels):
            raise InputError(f"the state is of a stream of {channels} channels, this one has {self.channels}")
        if len(slots) != len(self._plan.labels) or max(slots) >= self._room:
            raise InputError(
                f"the state is of a session with {len(slots)} prompts, this one has {len(self._plan.labels)}"
            )
        before = self._opened, self._plan, self._slots, self.state
        self._plan = replace(self._plan, vectors=state.vectors if state.vectors.numel() else None)
        try:
            self._resume(channels, slots, state)
        except InputError:
            self._plan = before[1]
            self._resume(before[0], before[2], before[3])
            raise

    def _resume(self, channels: int, slots: tuple[int, ...], state: SessionState) -> None:
        self._slots = slots
        self._open(channels)
        self.core.load(state.core)
        self._incoming.load(state.incoming)
        self._outgoing.load(state.outgoing)
        self._mixture = state.mixture.numpy().copy()
        self._taken = int(state.incoming.taken)

    def save(self, path: str | Path) -> None:
        """Writes the state as a safetensors file."""
        with atomic_write(Path(path)) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors_of(self.state).items()}, temporary)

    def load(self, path: str | Path) -> None:
        """Goes on from a file of `save`; InputError if it is none, or of another kind of session."""
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path}: not a session state: {error}") from error
        self.state = like(self.state, tensors)
