"""Averages of the vectors of several clips, and how far these agree."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.prompts.origin import Agreement, Average

FARTHEST = 1.5  # times as far as is typical: a clip beyond does not count
FEWEST = 3  # clips: of two that differ, nobody can tell which one is wrong


def average(vectors: Tensor, how: Average) -> Tensor:
    """[dim] of [clips, dim]: the mean, of all of them or ("robust") of those near the medoid.

    The medoid is the vector with the highest mean cosine to the others, and what counts is the distance to it, 1 minus
    the cosine: clips beyond FARTHEST times the median distance are left out. So the medoid and at least half of the
    others stay, how alike clips are in general does not matter, and one or two clips always give the mean.
    """
    if how == "mean" or len(vectors) < FEWEST:
        return vectors.mean(0)
    cosines = _cosines(vectors)
    medoid = int(_to_others(cosines).argmax())
    distances = 1 - cosines[medoid]
    others = distances[torch.arange(len(vectors)) != medoid]
    # Half-way between the two in the middle, where torch's own median is the lower one.
    near = distances <= FARTHEST * others.quantile(0.5) + 1e-12
    near[medoid] = True
    return vectors[near.to(vectors.device)].mean(0)


def agreement(vectors: Tensor, clips: Sequence[str], by_detector: bool = False) -> Agreement | None:
    """Of the vectors [clips, dim] of clips of these names; None for fewer than FEWEST."""
    if len(vectors) < FEWEST:
        return None
    each = _to_others(_cosines(vectors))
    worst = int(each.argmin())
    return Agreement(float(each.mean()), clips[worst], float(each[worst]), by_detector)


def _cosines(vectors: Tensor) -> Tensor:
    """[clips, clips], in float64."""
    unit = F.normalize(vectors.double().cpu(), dim=1, eps=1e-30)
    return unit @ unit.T


def _to_others(cosines: Tensor) -> Tensor:
    """[clips]: the mean of each one's cosines to the others."""
    return (cosines.sum(1) - cosines.diagonal()) / (len(cosines) - 1)
