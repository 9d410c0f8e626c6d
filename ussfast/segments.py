"""Long audio: windows with context that is thrown away, cross-faded seams, and equal prompts kept in order.

Works on a stream of blocks, so that memory does not depend on the duration. Positions are samples at the model's
rate, counted from the beginning of the audio.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import NamedTuple

import numpy as np

from ussfast.policy import SegmentPolicy

RunWindow = Callable[[np.ndarray], np.ndarray]  # [channels, samples] -> [sources, channels, samples]
Groups = tuple[tuple[int, ...], ...]  # indices of sources that may be exchanged with one another

# Of the left context of live windows that equal prompts are told apart by.
LIKENESS_SECONDS = 1.0


def separate_blocks(
    blocks: Iterable[np.ndarray], run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = ()
) -> Iterator[np.ndarray]:
    """Separates a stream of blocks window by window.

    Args:
        blocks: [channels, n] float32 each, any n.
        run: the model on one window; returns float32 [sources, channels, the window's samples].
        rate: of the blocks, in Hz.
        policy: windows; audio no longer than the first one is separated at once.
        groups: sources that a window may return in another order than the one before ("sfx", "sfx").
    Yields:
        [sources, channels, m] float32, gap-free; as many samples in all as went in.
    """
    kind = PublishedStitcher if policy.stitch == "published" else FadeStitcher
    stitcher: Stitcher = kind(run, rate, policy, groups)
    for block in blocks:
        yield from stitcher.push(block)
    yield from stitcher.flush()


class Place(NamedTuple):
    """Where a window lies: it sees [begin, end), adds what is behind `border`, and is compared with the window before
    from `since` on, begin <= since <= border."""

    begin: int
    end: int
    border: int
    since: int


@dataclass(frozen=True)
class StitchState:
    """All that a stitcher remembers; the arrays are not written to.

    held: [channels, n], the input that windows to come may see; None before there is any.
    start: position of its first sample.
    tail: [sources, channels, m], what the last window says from the next one's `since` on; None before the first.
    windows: how many were run.
    """

    held: np.ndarray | None = None
    start: int = 0
    tail: np.ndarray | None = None
    windows: int = 0


class Stitcher(ABC):
    """Blocks in, separated audio out as soon as it is final.

    Args:
        run, rate, policy, groups: as for `separate_blocks`; `groups` may be set anew between blocks.
    """

    size: int

    def __init__(self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = ()):
        self.run, self.groups = run, groups
        self.load(StitchState())

    @property
    def state(self) -> StitchState:
        return StitchState(self._audio() if self._held else None, self._start, self._tail, self._windows)

    def load(self, state: StitchState) -> None:
        """Goes on from a state of a stitcher with the same policy."""
        self._held = [] if state.held is None else [state.held]
        self._start, self._tail, self._windows = state.start, state.tail, state.windows
        self._end = self._start + sum(block.shape[1] for block in self._held)

    def push(self, block: np.ndarray) -> list[np.ndarray]:
        """Takes [channels, n], any n; keeps it, so it must not be written to later.

        Returns:
            [sources, channels, m] of each window that this block completes.
        """
        if not block.shape[1]:
            return []
        self._held.append(block)
        self._end += block.shape[1]
        parts = []
        while self._end >= (place := self.place(self._windows)).end:
            audio = self._audio()
            new = self._join(self.run(audio[:, place.begin - self._start : place.end - self._start]), place)
            following = self.place(self._windows + 1)
            parts.append(new[..., place.border - place.since : following.border - place.since])
            # A copy: the rest of the window need not stay.
            self._tail = new[..., following.since - place.since :].copy()
            # The last window may have to reach back, but ends behind this one.
            self._held, self._start = [audio[:, place.begin - self._start :]], place.begin
            self._windows += 1
        return parts

    def flush(self) -> list[np.ndarray]:
        """Ends the audio: the rest of what is separated, if there is any. The next `push` begins anew."""
        place, rest = self.place(self._windows), None
        if self._tail is not None and self._end == self.place(self._windows - 1).end:
            rest = self._tail[..., place.border - place.since :]
        elif self._end:
            rest = self._last(self._audio(), place)
        self.load(StitchState())
        return [] if rest is None or not rest.shape[-1] else [rest]

    @abstractmethod
    def place(self, index: int) -> Place:
        """Of the window with that number, were it not the last."""

    @abstractmethod
    def _join(self, new: np.ndarray, place: Place) -> np.ndarray:
        """`new`, a window's output from `place.begin` on, joined to the tail; from `place.since` on."""

    @abstractmethod
    def _last(self, audio: np.ndarray, place: Place) -> np.ndarray:
        """What is behind the border of a window at `place` that `audio`, all that is held, does not fill."""

    def _audio(self) -> np.ndarray:
        if len(self._held) > 1:
            self._held = [np.concatenate(self._held, 1)]
        return self._held[0]


class FadeStitcher(Stitcher):
    """Each window owns the middle between its contexts, with cross-faded borders.

    With a look-ahead, window k ends at (k + 1) * advance + fade + ahead and begins `size` samples earlier, or at 0.
    Output up to (k + 1) * advance is then final, so that sample p is out, at the latest, when p + latency samples are
    in, and depends on none after them: latency = advance + fade + ahead.
    """

    def __init__(self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = ()):
        super().__init__(run, rate, policy, groups)
        self.size = max(1, round(policy.segment * rate))
        overlap = min(self.size - 1, round(policy.overlap * rate))
        self.fade = min(round(policy.fade * rate), overlap // 2)
        self.live = policy.look_ahead is not None
        context = (overlap - self.fade) // 2
        self.ahead = context if policy.look_ahead is None else min(round(policy.look_ahead * rate), overlap - self.fade)
        self.advance = self.size - overlap if self.live else self.size - 2 * context - self.fade
        self.latency = self.advance + self.fade + self.ahead if self.live else self.size
        self.reach = round(LIKENESS_SECONDS * rate) if self.live else 0
        self.ramp = np.sin(np.linspace(0, np.pi / 2, self.fade + 2, dtype=np.float32)[1:-1]) ** 2

    def place(self, index: int) -> Place:
        begin = max(0, index * self.advance + self.latency - self.size)
        border = index * self.advance + (0 if self.live or not index else self.ahead)
        return Place(begin, index * self.advance + self.latency, border, max(begin, border - self.reach))

    def _join(self, new: np.ndarray, place: Place) -> np.ndarray:
        new = new[..., place.since - place.begin :]
        if self._tail is None:
            return new
        shared = min(self._tail.shape[-1], new.shape[-1])
        new = reorder(self._tail[..., :shared], new, self.groups)
        at = place.border - place.since
        seam = slice(at, min(at + self.fade, new.shape[-1]))
        ramp = self.ramp[: seam.stop - at]
        new[..., seam] = self._tail[..., seam] * (1 - ramp) + new[..., seam] * ramp
        return new

    def _last(self, audio: np.ndarray, place: Place) -> np.ndarray:
        # Reaching back for a full window keeps the model's conditions, and gives it more context.
        begin = max(0, self._end - self.size)
        new = self._join(self.run(audio[:, begin - self._start :]), place._replace(begin=begin))
        return new[..., place.border - place.since :]


class PublishedStitcher(Stitcher):
    """The long-audio procedure of the TUSS scripts: plain averages of overlapping windows."""

    def __init__(self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = ()):
        super().__init__(run, rate, policy)
        self.solve = policy.solve_permutation
        self.size = max(1, int(policy.segment * rate))
        # 0.3 - 0.1 is not quite 0.2; and a window must not begin beyond the end of the one before it.
        shift = round((policy.segment - policy.overlap) * rate, 6)
        self.shift = min(max(shift, 1.0), float(self.size))

    def place(self, index: int) -> Place:
        begin = int(index * self.shift)
        return Place(begin, begin + self.size, begin, begin)

    def _join(self, new: np.ndarray, place: Place) -> np.ndarray:
        # Not the nominal overlap: where begins are rounded, a window ends up to a sample off it.
        if self._tail is None or not (overlap := self._tail.shape[-1]):
            return new
        if self.solve:
            new = _solve(self._tail, new)
        new[..., :overlap] = (self._tail + new[..., :overlap]) / 2
        return new

    def _last(self, audio: np.ndarray, place: Place) -> np.ndarray:
        audio = audio[:, place.begin - self._start :]
        if self._tail is None:
            return self.run(audio)
        padded = np.pad(audio, ((0, 0), (0, self.size - audio.shape[1])))
        return self._join(self.run(padded), place)[..., : audio.shape[1]]


def reorder(before: np.ndarray, new: np.ndarray, groups: Groups) -> np.ndarray:
    """`new` with the sources of each group in the order that resembles `before` most.

    Args:
        before: [sources, channels, shared], the end of what is there already.
        new: [sources, channels, samples >= shared], beginning at the same position.
        groups: indices that may be exchanged.
    """
    shared = before.shape[-1]
    order = list(range(len(new)))
    for group in groups:
        likeness = _likeness(before[list(group)], new[list(group)][..., :shared])
        best = _assign(likeness)
        for place, choice in zip(group, best, strict=True):
            order[place] = group[choice]
    return new if order == list(range(len(new))) else new[order]


def align_channels(out: np.ndarray, groups: Groups) -> np.ndarray:
    """Channels are separated one by one: puts the sources of each group into the order of the first channel."""
    for channel in range(1, out.shape[1] if groups else 0):
        out[:, channel] = reorder(out[:, 0][:, None], out[:, channel][:, None], groups)[:, 0]
    return out


def _likeness(before: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Correlation of every pair, [before, new]; 0 where one of them is silent."""
    a = before.reshape(len(before), -1).astype(np.float64)
    b = new.reshape(len(new), -1).astype(np.float64)
    norm = np.sqrt((a * a).sum(1))[:, None] * np.sqrt((b * b).sum(1))
    return (a @ b.T) / np.where(norm > 0, norm, np.inf)


def _assign(likeness: np.ndarray) -> tuple[int, ...]:
    """The one-to-one choice of columns with the largest sum; the present order wins ties."""
    rows = range(len(likeness))
    if len(likeness) <= 6:
        return max(permutations(rows), key=lambda order: sum(likeness[i, j] for i, j in zip(rows, order, strict=True)))
    # More equal prompts than anybody asks for: greedy, best pairs first.
    left, order = likeness.copy(), [0] * len(likeness)
    for _ in rows:
        i, j = np.unravel_index(int(left.argmax()), left.shape)
        order[int(i)] = int(j)
        left[i], left[:, j] = -np.inf, -np.inf
    return tuple(order)


def _solve(tail: np.ndarray, new: np.ndarray) -> np.ndarray:
    """`new` in the order with the lowest loss against `tail` [sources, channels, overlap], channel by channel."""
    import torch

    from ussfast.train.losses import css_pairs, pit_loss

    estimate = torch.from_numpy(np.ascontiguousarray(new[..., : tail.shape[-1]])).transpose(0, 1)
    reference = torch.from_numpy(np.ascontiguousarray(tail)).transpose(0, 1)
    order = pit_loss(estimate, reference, css_pairs)[1].numpy()  # [channels, sources]
    return np.stack([new[order[channel], channel] for channel in range(new.shape[1])], 1)
