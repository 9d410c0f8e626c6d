"""Long audio: windows with context that is thrown away, cross-faded seams, and equal prompts kept in order.

Works on a stream of blocks, so that memory does not depend on the duration. Positions are samples at the model's
rate, counted from the beginning of the audio.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ussfast.long_audio.alignment import Groups, reorder, solve
from ussfast.long_audio.policy import SegmentPolicy

RunWindow = Callable[[np.ndarray], np.ndarray]  # [channels, samples] -> [sources, channels, samples]


class Batch(NamedTuple):
    """Windows that are run together: how many, and the model on a list of them, which may differ in length."""

    size: int
    run: Callable[[list[np.ndarray]], list[np.ndarray]]


# Of the left context of live windows that equal prompts are told apart by.
LIKENESS_SECONDS = 1.0


def separate_blocks(
    blocks: Iterable[np.ndarray],
    run: RunWindow,
    rate: int,
    policy: SegmentPolicy,
    groups: Groups = (),
    batch: Batch | None = None,
) -> Iterator[np.ndarray]:
    """Separates a stream of blocks window by window.

    Args:
        blocks: [channels, n] float32 each, any n.
        run: the model on one window; returns float32 [sources, channels, the window's samples].
        rate: of the blocks, in Hz.
        policy: windows; audio no longer than the first one is separated at once.
        groups: sources that a window may return in another order than the one before ("sfx", "sfx").
        batch: instead of `run`: nothing comes out before so many windows are complete, or the audio ends.
    Yields:
        [sources, channels, m] float32, gap-free; as many samples in all as went in.
    """
    kind = PublishedStitcher if policy.stitch == "published" else FadeStitcher
    stitcher: Stitcher = kind(run, rate, policy, groups, batch)
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


class Reached(NamedTuple):
    """windows: that were run. start: position of the first sample that is held. tail: samples of what the last window
    says about what is to come. given: samples that are out."""

    windows: int
    start: int
    tail: int
    given: int


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
        run, rate, policy, groups, batch: as for `separate_blocks`; `groups` may be set anew between blocks.
    """

    size: int

    def __init__(
        self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = (), batch: Batch | None = None
    ):
        self.batch = batch or Batch(1, lambda windows: [run(window) for window in windows])
        self.groups = groups
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
            [sources, channels, m] of each window of the batches that this block completes.
        """
        if not block.shape[1]:
            return []
        self._held.append(block)
        self._end += block.shape[1]
        parts = []
        while self._end >= self.place(self._windows + self.batch.size - 1).end:
            audio, places = self._audio(), [self.place(self._windows + n) for n in range(self.batch.size)]
            outs = self.batch.run([self._window(audio, place) for place in places])
            parts += [self._add(new, place) for new, place in zip(outs, places, strict=True)]
            # The last window may have to reach back, but ends behind this one.
            begin = places[-1].begin
            self._held, self._start = [audio[:, begin - self._start :]], begin
        return parts

    def flush(self) -> list[np.ndarray]:
        """Ends the audio: the rest of what is separated, if there is any. The next `push` begins anew."""
        parts = self._rest() if self._end else []
        self.load(StitchState())
        return [part for part in parts if part.shape[-1]]

    def _rest(self) -> list[np.ndarray]:
        """What windows say that wait for a full batch, and what is behind the border of the last complete one."""
        audio, places = self._audio(), list[Place]()
        while self._end >= (place := self.place(self._windows + len(places))).end:
            places.append(place)
        windows, index = [self._window(audio, place) for place in places], self._windows + len(places)
        ends = index > 0 and self._end == self.place(index - 1).end
        if not ends:
            last, place = self._last(audio, place, index == 0)
            windows.append(last)
        outs = self.batch.run(windows) if windows else []
        parts = [self._add(new, place) for new, place in zip(outs, places, strict=False)]
        rest = self._tail if ends else self._join(outs[-1], place)
        assert rest is not None
        return [*parts, rest[..., place.border - place.since : self._end - place.since]]

    def _window(self, audio: np.ndarray, place: Place) -> np.ndarray:
        return audio[:, place.begin - self._start : place.end - self._start]

    def _add(self, new: np.ndarray, place: Place) -> np.ndarray:
        """Joins what comes of the next window; returns what is final then."""
        new = self._join(new, place)
        following = self.place(self._windows + 1)
        # A copy: the rest of the window need not stay.
        self._tail = new[..., following.since - place.since :].copy()
        self._windows += 1
        return new[..., place.border - place.since : following.border - place.since]

    @abstractmethod
    def place(self, index: int) -> Place:
        """Of the window with that number, were it not the last."""

    @abstractmethod
    def _join(self, new: np.ndarray, place: Place) -> np.ndarray:
        """`new`, a window's output from `place.begin` on, joined to the tail; from `place.since` on."""

    @abstractmethod
    def _last(self, audio: np.ndarray, place: Place, only: bool) -> tuple[np.ndarray, Place]:
        """The window to run, and where it lies, instead of one at `place` that `audio`, all that is held, does not
        fill; only: there was none before it."""

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

    def __init__(
        self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = (), batch: Batch | None = None
    ):
        super().__init__(run, rate, policy, groups, batch)
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

    def after(self, taken: int) -> Reached:
        """Where a stream is after so many samples, window by window."""
        windows = max(0, (taken - self.latency) // self.advance + 1)
        following = self.place(windows)
        if not windows:
            return Reached(0, 0, 0, following.border)
        last = self.place(windows - 1)
        return Reached(windows, last.begin, last.end - following.since, following.border)

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

    def _last(self, audio: np.ndarray, place: Place, only: bool) -> tuple[np.ndarray, Place]:
        # Reaching back for a full window keeps the model's conditions, and gives it more context.
        begin = max(0, self._end - self.size)
        return audio[:, begin - self._start :], place._replace(begin=begin)


class PublishedStitcher(Stitcher):
    """The long-audio procedure of the TUSS scripts: plain averages of overlapping windows."""

    def __init__(
        self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = (), batch: Batch | None = None
    ):
        super().__init__(run, rate, policy, batch=batch)
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
            new = solve(self._tail, new)
        new[..., :overlap] = (self._tail + new[..., :overlap]) / 2
        return new

    def _last(self, audio: np.ndarray, place: Place, only: bool) -> tuple[np.ndarray, Place]:
        audio = audio[:, place.begin - self._start :]
        return audio if only else np.pad(audio, ((0, 0), (0, self.size - audio.shape[1]))), place
