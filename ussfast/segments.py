"""Long audio: windows with context that is thrown away, cross-faded seams, and equal prompts kept in order.

Works on a stream of blocks, so that memory does not depend on the duration. Positions are samples at the model's
rate, counted from the beginning of the audio.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Literal

import numpy as np

from ussfast.errors import InputError

RunWindow = Callable[[np.ndarray], np.ndarray]  # [channels, samples] -> [sources, channels, samples]
Groups = tuple[tuple[int, ...], ...]  # indices of sources that may be exchanged with one another

FADE_SECONDS = 0.1


@dataclass(frozen=True)
class SegmentPolicy:
    """How long audio is cut; all in seconds.

    segment: window that the model sees at once.
    overlap: shared by neighbouring windows. With stitch "fade" it is context, FADE_SECONDS of cross-fade (less if
        the overlap is shorter), and context again; what a window says about its context is thrown away.
    stitch: "fade", or "published": plain averages over the overlap, the last window padded with zeros, as the TUSS
        authors' scripts do.
    solve_permutation: published stitching only: reorders all sources by their loss against what is there already.
    """

    segment: float
    overlap: float
    stitch: Literal["fade", "published"] = "fade"
    solve_permutation: bool = False

    def __post_init__(self) -> None:
        if not (0 < self.segment < float("inf") and 0 <= self.overlap < self.segment):
            raise InputError(
                f"need a segment above 0 s and an overlap from 0 s to below the segment, "
                f"got segment {self.segment:g} s, overlap {self.overlap:g} s"
            )
        if self.stitch not in ("fade", "published"):
            raise InputError(f"stitch must be 'fade' or 'published', got {self.stitch!r}")

    def shorter(self) -> "SegmentPolicy":
        """Half the window, for a machine where this one does not fit; the overlap shrinks only if it must."""
        segment = self.segment / 2
        return SegmentPolicy(segment, min(self.overlap, segment / 2), self.stitch, self.solve_permutation)


def separate_blocks(
    blocks: Iterable[np.ndarray], run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups = ()
) -> Iterator[np.ndarray]:
    """Separates a stream of blocks window by window.

    Args:
        blocks: [channels, n] float32 each, any n.
        run: the model on one window; returns float32 [sources, channels, the window's samples].
        rate: of the blocks, in Hz.
        policy: windows; audio no longer than one window is separated at once.
        groups: sources that a window may return in another order than the one before ("sfx", "sfx").
    Yields:
        [sources, channels, m] float32, gap-free; as many samples in all as went in.
    """
    stitcher = _Published(run, rate, policy) if policy.stitch == "published" else _Fade(run, rate, policy, groups)
    held: list[np.ndarray] = []
    start, end = 0, 0  # positions that the held blocks cover
    for block in blocks:
        held.append(block)
        end += block.shape[1]
        # One sample beyond the window: only then it is sure not to be the last one.
        while end > stitcher.begin + stitcher.size:
            audio = np.concatenate(held, 1)
            # The last window may have to reach back, so a whole window stays behind.
            keep = max(0, stitcher.begin + stitcher.advance - stitcher.size)
            begin = stitcher.begin - start
            yield stitcher.window(audio[:, begin : begin + stitcher.size])
            held, start = [audio[:, keep - start :]] if keep > start else [audio], max(start, keep)
    if end:
        audio = np.concatenate(held, 1)
        yield stitcher.last(audio, start, end)


class _Fade:
    """Windows of equal size; each owns the middle between its contexts, with cross-faded borders."""

    def __init__(self, run: RunWindow, rate: int, policy: SegmentPolicy, groups: Groups):
        self.run, self.groups = run, groups
        self.size = max(1, round(policy.segment * rate))
        overlap = min(self.size - 1, round(policy.overlap * rate))
        self.fade = min(round(FADE_SECONDS * rate), overlap // 2)
        self.context = (overlap - self.fade) // 2
        self.advance = self.size - 2 * self.context - self.fade
        self.begin = 0
        self.ramp = np.sin(np.linspace(0, np.pi / 2, self.fade + 2, dtype=np.float32)[1:-1]) ** 2
        # What the window before says about samples from the next border on.
        self.tail: np.ndarray | None = None

    def window(self, audio: np.ndarray) -> np.ndarray:
        out = self._join(self.run(audio), self.begin)
        border = self.advance + (self.context if self.begin == 0 else 0)
        self.tail = out[..., border:]
        self.begin += self.advance
        return out[..., :border]

    def last(self, audio: np.ndarray, start: int, end: int) -> np.ndarray:
        # Reaching back for a full window keeps the model's conditions, and gives it more context.
        begin = max(0, end - self.size) if self.begin else 0
        return self._join(self.run(audio[:, begin - start :]), begin)

    def _join(self, new: np.ndarray, begin: int) -> np.ndarray:
        """`new`, a window's output that starts at `begin`, from the border on and faded in."""
        if self.tail is None:
            return new
        new = new[..., self.begin + self.context - begin :]
        shared = min(self.tail.shape[-1], new.shape[-1])
        new = reorder(self.tail[..., :shared], new, self.groups)
        fade = min(self.fade, new.shape[-1])
        ramp = self.ramp[:fade]
        new[..., :fade] = self.tail[..., :fade] * (1 - ramp) + new[..., :fade] * ramp
        return new


class _Published:
    """The long-audio procedure of the TUSS scripts: plain averages of overlapping windows."""

    def __init__(self, run: RunWindow, rate: int, policy: SegmentPolicy):
        self.run, self.solve = run, policy.solve_permutation
        self.size = max(1, int(policy.segment * rate))
        # 0.3 - 0.1 is not quite 0.2; and a window must not begin beyond the end of the one before it.
        shift = round((policy.segment - policy.overlap) * rate, 6)
        self.shift = min(max(shift, 1.0), float(self.size))
        self.index, self.advance = 0, 0
        self._place()
        self.tail: np.ndarray | None = None

    def _place(self) -> None:
        self.begin = int(self.index * self.shift)
        self.advance = int((self.index + 1) * self.shift) - self.begin

    def window(self, audio: np.ndarray) -> np.ndarray:
        out = self._join(self.run(audio))
        # Not the nominal overlap: where begins are rounded, a window ends up to a sample off it.
        given = self.advance
        self.tail = out[..., given:]
        self.index += 1
        self._place()
        return out[..., :given]

    def last(self, audio: np.ndarray, start: int, end: int) -> np.ndarray:
        audio = audio[:, self.begin - start :]
        if self.tail is None:
            return self.run(audio)
        padded = np.pad(audio, ((0, 0), (0, self.size - audio.shape[1])))
        return self._join(self.run(padded))[..., : audio.shape[1]]

    def _join(self, new: np.ndarray) -> np.ndarray:
        if self.tail is None or not (overlap := self.tail.shape[-1]):
            return new
        if self.solve:
            new = _solve(self.tail, new)
        new[..., :overlap] = (self.tail + new[..., :overlap]) / 2
        return new


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
