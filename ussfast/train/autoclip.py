"""A gradient clip that follows the gradients: a percentile of all norms seen so far.

Source: Seetharaman et al., "AutoClip: adaptive gradient clipping for source separation networks", MLSP 2020.
"""

import math
from bisect import insort

import torch
from torch import Tensor


class AutoClip:
    """The history of gradient norms, kept sorted: a percentile is two look-ups, whatever its length.

    Args:
        percentile: 0..100; the paper recommends 10.
    """

    def __init__(self, percentile: float):
        self.percentile = percentile
        self.history: list[float] = []

    def threshold(self, norm: float) -> float:
        """Takes a finite norm into the history; the percentile of all of it, linear between neighbours."""
        insort(self.history, norm)
        place = self.percentile / 100 * (len(self.history) - 1)
        low = math.floor(place)
        below, above = self.history[low], self.history[min(low + 1, len(self.history) - 1)]
        share = place - low
        # From the nearer end, as numpy.percentile computes it.
        step = above - below
        return above - step * (1 - share) if share >= 0.5 else below + step * share

    def state(self) -> Tensor:
        """The history, float64 [norms]."""
        return torch.tensor(self.history, dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        self.history = sorted(state.tolist())
