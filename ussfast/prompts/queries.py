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


def query_segments(clip: Tensor, length: int, short: Literal["repeat", "refuse"] = "repeat") -> Tensor:
    """Consecutive segments of a clip that are loud enough; what is left over at its end does not count.

    Args:
        clip: [samples], at the detector's rate. length: of a segment, in samples.
        short: what happens to a clip shorter than one segment: it is repeated, or refused (published code fails).
    Returns:
        [segments, length], at least one.
    Raises:
        InputError: no samples, or such that are no numbers; too short, where that is refused; all segments silent.
    """
    if clip.dim() != 1 or not len(clip):
        raise InputError(f"a query is audio [samples], got {list(clip.shape)}")
    if not clip.isfinite().all():
        raise InputError("the query has samples that are no numbers")
    if len(clip) < length:
        if short == "refuse":
            raise InputError(f"the query has {len(clip)} samples, a segment {length}")
        clip = clip.repeat(-(-length // len(clip)))
    segments = clip[: len(clip) // length * length].view(-1, length)
    energies = torch.cat([part.double().square().sum(1) for part in segments.split(TOGETHER)])
    loud = energies > LEAST_ENERGY
    if not loud.any():
        raise InputError(
            f"the query is silent: no segment of {length} samples has an energy above {LEAST_ENERGY}, "
            f"the loudest one has {float(energies.max()):.2g}"
        )
    return segments if loud.all() else segments[loud]


def clip_vectors(
    embed: Callable[[Tensor], Tensor],
    clips: Sequence[Tensor],
    length: int,
    short: Literal["repeat", "refuse"] = "repeat",
) -> Tensor:
    """One vector per clip: the mean over its segments.

    Args:
        embed: a detector's, [segments, length] -> [segments, dim].
        clips: [samples] each, at the detector's rate; at least one.
        length, short: see `query_segments`; published is SEGMENT_SECONDS.
    Returns:
        [clips, dim] float32.
    Raises:
        InputError: no clips, or one that gives no segment: its number is named.
    """
    found = []
    for number, clip in enumerate(clips, 1):
        try:
            segments = query_segments(clip, length, short)
        except InputError as error:
            raise InputError(f"clip {number}: {error}") from None
        with torch.inference_mode():
            sums = [embed(part).double().sum(0) for part in segments.split(TOGETHER)]
        found.append((torch.stack(sums).sum(0) / len(segments)).float())
    if not found:
        raise InputError("a query needs at least one clip")
    return torch.stack(found).clone()


def query_vector(
    embed: Callable[[Tensor], Tensor],
    clips: Sequence[Tensor],
    length: int,
    short: Literal["repeat", "refuse"] = "repeat",
) -> Tensor:
    """[dim] float32, the mean over the clips of their `clip_vectors`: a long clip counts as much as a short one."""
    return clip_vectors(embed, clips, length, short).mean(0)
