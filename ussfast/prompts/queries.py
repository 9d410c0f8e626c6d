"""Query vectors of a detector: what a clip's segments have in common, as a separator takes it.

Source: Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from Weakly-labeled Data",
AAAI 2022.
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from ussfast.errors import InputError

SEGMENT_SECONDS = 2.0
LEAST_ENERGY = 0.1  # sum of squares of a segment that is quieter than those that count
TOGETHER = 8  # segments that are embedded at once: clips may be hours long

Short = Literal["repeat", "refuse"]


class ClipMean:
    """The vector of a clip that comes in pieces: the mean over its segments, with memory for a few of them.

    Args:
        embed: a detector's, [segments, length] -> [segments, dim].
        length: of a segment, in samples; published is SEGMENT_SECONDS.
        short: what happens to a clip shorter than one segment: it is repeated, or refused (published code fails).
    """

    def __init__(self, embed: Callable[[Tensor], Tensor], length: int, short: Short = "repeat"):
        self.embed, self.length, self.short = embed, length, short
        self._rest = torch.zeros(0)  # less than a segment
        self._waiting = torch.zeros(0, length)  # loud ones, fewer than TOGETHER
        self._sum, self._segments, self._count, self._loudest = torch.zeros(0), 0, 0, 0.0

    def push(self, samples: Tensor) -> None:
        """The next samples, [samples] at the detector's rate; InputError where some are no numbers."""
        check_numbers(samples)
        held = torch.cat((self._rest, samples)) if len(self._rest) else samples
        whole = len(held) // self.length * self.length
        for part in held[:whole].view(-1, self.length).split(TOGETHER):
            self._take(part)
        self._rest = held[whole:].clone()

    def finish(self) -> Tensor:
        """[dim] float32; what is left over at the end of the clip does not count.

        Raises:
            InputError: no samples; too short, where that is refused; all segments silent.
        """
        if not self._segments:
            self._take(repeated(self._rest, self.length, self.short)[: self.length][None])
        self._embed(self._waiting)
        if not self._count:
            raise InputError(silent(self.length, self._loudest))
        return (self._sum / self._count).float()

    def _take(self, segments: Tensor) -> None:
        energies = energies_of(segments)
        self._segments += len(segments)
        self._loudest = max([self._loudest, *energies.tolist()])
        waiting = torch.cat((self._waiting, segments[energies > LEAST_ENERGY]))
        while len(waiting) >= TOGETHER:
            self._embed(waiting[:TOGETHER])
            waiting = waiting[TOGETHER:]
        self._waiting = waiting.clone()

    def _embed(self, segments: Tensor) -> None:
        if len(segments):
            with torch.inference_mode():
                found = self.embed(segments).double().sum(0)
                self._sum = self._sum + found if self._count else found
            self._count += len(segments)


def query_segments(clip: Tensor, length: int, short: Short = "repeat") -> Tensor:
    """Consecutive segments of a clip that are loud enough; what is left over at its end does not count.

    Args:
        clip: [samples], at the detector's rate. length, short: see `ClipMean`.
    Returns:
        [segments, length], at least one.
    Raises:
        InputError: no samples, or such that are no numbers; too short, where that is refused; all segments silent.
    """
    check_numbers(clip)
    clip = repeated(clip, length, short)
    segments = clip[: len(clip) // length * length].view(-1, length)
    energies = torch.cat([energies_of(part) for part in segments.split(TOGETHER)])
    loud = energies > LEAST_ENERGY
    if not loud.any():
        raise InputError(silent(length, float(energies.max())))
    return segments if loud.all() else segments[loud]


def clip_vectors(
    embed: Callable[[Tensor], Tensor], clips: Sequence[Tensor], length: int, short: Short = "repeat"
) -> Tensor:
    """One vector per clip: the mean over its segments.

    Args:
        embed, length, short: see `ClipMean`.
        clips: [samples] each, at the detector's rate; at least one.
    Returns:
        [clips, dim] float32.
    Raises:
        InputError: no clips, or one that gives no segment: its number is named.
    """
    found = []
    for number, clip in enumerate(clips, 1):
        mean = ClipMean(embed, length, short)
        try:
            mean.push(clip)
            found.append(mean.finish())
        except InputError as error:
            raise InputError(f"clip {number}: {error}") from None
    if not found:
        raise InputError("a query needs at least one clip")
    return torch.stack(found).clone()


def query_vector(
    embed: Callable[[Tensor], Tensor], clips: Sequence[Tensor], length: int, short: Short = "repeat"
) -> Tensor:
    """[dim] float32, the mean over the clips of their `clip_vectors`: a long clip counts as much as a short one."""
    return clip_vectors(embed, clips, length, short).mean(0)


def check_numbers(samples: Tensor) -> None:
    if samples.dim() != 1:
        raise InputError(f"a query is audio [samples], got {list(samples.shape)}")
    if not samples.isfinite().all():
        raise InputError("the query has samples that are no numbers")


def repeated(clip: Tensor, length: int, short: Short) -> Tensor:
    """A clip that is not shorter than a segment, or repeated until it is not; InputError where that is refused."""
    if not len(clip):
        raise InputError(f"a query is audio [samples], got {list(clip.shape)}")
    if len(clip) >= length:
        return clip
    if short == "refuse":
        raise InputError(f"the query has {len(clip)} samples, a segment {length}")
    return clip.repeat(-(-length // len(clip)))


def energies_of(segments: Tensor) -> Tensor:
    """[segments]: sums of squares, in float64."""
    return segments.double().square().sum(1)


def silent(length: int, loudest: float) -> str:
    return (
        f"the query is silent: no segment of {length} samples has an energy above {LEAST_ENERGY}, "
        f"the loudest one has {loudest:.2g}"
    )
