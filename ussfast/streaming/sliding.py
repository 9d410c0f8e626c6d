"""Live separation with models that are not causal: windows with look-back, a declared look-ahead and cross-fades.

Sources come out in slots, a fixed number of rows, so that prompts can change while audio runs: the caller gives each
label a slot and keeps it there as long as the label goes on. Slots not in use are zero.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ussfast.engine.engine import Engine
from ussfast.errors import InputError, PromptError
from ussfast.long_audio.alignment import Groups
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.long_audio.windows import FadeStitcher, StitchState


@dataclass(frozen=True)
class SlidingState:
    """All that a stream remembers between two pushes, but for its prompts; tensors on the CPU, shared with nothing.

    windows: int64 [4], samples of each, of its step, cross-fade and look-ahead; they must be those of the core.
    held: [channels, n] float32, the input that windows to come may see.
    tail: [slots, channels, m] float32, what the last window says about the output to come and shortly before.
    counters: int64 [2], the position of held's first sample and how many windows were run.
    """

    windows: Tensor
    held: Tensor = field(metadata={"within": (-1e12, 1e12)})
    tail: Tensor = field(metadata={"within": (-1e16, 1e16)})
    counters: Tensor


class SlidingCore:
    """One live stream at the model's rate. What comes out in all is `Separator.separate` with the same windows.

    Args:
        engine: with the model; several cores may share it.
        policy: windows, see ussfast.long_audio.policy.live_policy. Without a look-ahead they are those of files, and
            the first output waits for a full one.
        channels: of the audio.
        slot_count: rows of the output, at least as many as there are labels at any time of a change of prompts.
        vectors, slots, groups: as for `set_prompts`.
        threads: of the CPU; PyTorch's choice if None.
    Attributes:
        latency: in samples. Sample p comes out, at the latest, with the push that brings input up to p + latency, and
            depends on no input from p + latency on.
        fade: samples of the cross-fade between windows. hop: samples that every window adds.
        sources: that the model is asked for at present.
    Raises:
        InputError, PromptError: published stitching, channels that the model does not take, bad slots.
    """

    def __init__(
        self,
        engine: Engine,
        policy: SegmentPolicy,
        channels: int,
        slot_count: int,
        vectors: Tensor | None,
        slots: tuple[int, ...],
        groups: Groups = (),
        threads: int | None = None,
    ):
        if policy.stitch != "fade":
            raise InputError("live windows need stitch 'fade'")
        if channels < 1:
            raise InputError(f"channels must be at least 1, not {channels}")
        engine.check_channels(channels)
        self.engine, self.channels, self.slot_count, self.threads = engine, channels, slot_count, threads
        self._stitcher = FadeStitcher(self._run, engine.model.config.sample_rate, policy)
        self.latency, self.fade, self.hop = self._stitcher.latency, self._stitcher.fade, self._stitcher.advance
        self.set_prompts(vectors, slots, groups)

    @property
    def sources(self) -> int:
        return len(self._slots)

    def set_prompts(self, vectors: Tensor | None, slots: tuple[int, ...], groups: Groups = ()) -> None:
        """What the model is asked for from the next window on.

        The next sample to come out is the first of a cross-fade of `fade` samples, slot by slot: a label that keeps its
        slot goes on, one in a free slot fades in, the slot of one that ended fades to zero and is free after the fade.
        Nothing fades before the first output, or where `flush` comes before another window is due.

        Args:
            vectors: [sources, dim]; None for a model without prompts.
            slots: for each source the row of the output that it goes to, all different.
            groups: indices of sources that may be exchanged with one another (equal prompts): they are put into the
                order that resembles what is in their slots.
        Raises:
            PromptError: not as many slots as vectors (or as the model has sources), or no vectors where it needs them.
            InputError: slots that repeat or do not exist.
        """
        model = self.engine.model
        if (vectors is None) == (model.prompt_size is not None):
            raise PromptError(f"this model takes {'vectors of prompts' if vectors is None else 'no prompts'}")
        count = model.config.sources if vectors is None else len(vectors)
        if len(slots) != count:
            raise PromptError(f"{count} sources need as many slots, got {list(slots)}")
        if len(set(slots)) != count or not all(0 <= slot < self.slot_count for slot in slots):
            raise InputError(f"slots must be different and from 0 to {self.slot_count - 1}, got {list(slots)}")
        self._asked, self._slots, self._groups = self.engine.ask(vectors), slots, groups
        self._stitcher.groups = tuple(tuple(slots[source] for source in group) for group in groups)

    def foresee(self, vectors: Tensor) -> None:
        self.engine.ask(vectors)

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Takes float32 [channels, n], any n; returns what is ready as [slots, channels, m], m may be 0.

        Raises:
            InputError: another shape. OutOfMemoryError: a window does not fit.
        """
        if np.ndim(audio) != 2 or len(audio) != self.channels:
            raise InputError(f"[{self.channels}, samples] expected, not {list(np.shape(audio))}")
        # A copy: whoever records may use the same buffer again.
        return self._joined(self._stitcher.push(np.array(audio, np.float32)))

    def flush(self) -> np.ndarray:
        """Ends the stream: the rest, so that as many samples came out as went in. The next push begins a new one."""
        return self._joined(self._stitcher.flush())

    def reset(self) -> None:
        """Forgets the stream, but not the prompts."""
        self._stitcher.load(StitchState())

    @property
    def state(self) -> SlidingState:
        """To go on from here later, in this core or another; the prompts are for the caller to keep."""
        now = self._stitcher.state
        held = np.zeros((self.channels, 0), np.float32) if now.held is None else now.held
        tail = self._joined([]) if now.tail is None else now.tail
        counters = torch.tensor([now.start, now.windows])
        return SlidingState(self._windows(), torch.from_numpy(held.copy()), torch.from_numpy(tail.copy()), counters)

    def check_open(self) -> None:
        pass  # all of it is its own

    def given(self, taken: int) -> int:
        return self._stitcher.after(taken).given

    def after(self, taken: int) -> SlidingState:
        """What the state is like after so many samples, for `fit`: what they were is not in it."""
        windows, start, tail, _ = self._stitcher.after(taken)
        held = torch.zeros(self.channels, taken - start)
        counters = torch.tensor([start, windows])
        return SlidingState(self._windows(), held, torch.zeros(self.slot_count, self.channels, tail), counters)

    def load(self, state: SlidingState) -> None:
        """Goes on from `state`, which must fit, bit for bit as the core that it is from, given the same prompts."""
        start, windows = map(int, state.counters)
        held, tail = (part.detach().cpu().numpy().copy() for part in (state.held, state.tail))
        self._stitcher.load(StitchState(held, start, tail if windows else None, windows))

    def _windows(self) -> Tensor:
        stitcher = self._stitcher
        return torch.tensor([stitcher.size, stitcher.advance, stitcher.fade, stitcher.ahead])

    def _run(self, window: np.ndarray) -> np.ndarray:
        out = np.zeros((self.slot_count, *window.shape), np.float32)
        with self.engine.computing(self.threads):
            out[list(self._slots)] = self.engine.run(window, self._asked, self.sources, self._groups)
        return out

    def _joined(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate([np.zeros((self.slot_count, self.channels, 0), np.float32), *parts], -1)
