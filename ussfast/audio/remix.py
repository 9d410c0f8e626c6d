"""Where stems meet their mixture: what everything keeps in every stem, and the rest that no stem took."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Remix:
    """What is done to stems at the input's rate; false if nothing is.

    sum_to_mixture: the rest is shared out equally, so that stems add up to the mixture.
    floor: the gain that everything keeps in every stem at least, 0 to 1.
    """

    sum_to_mixture: bool = False
    floor: float = 0.0

    def __bool__(self) -> bool:
        return self.sum_to_mixture or self.floor > 0

    def __call__(self, stems: np.ndarray, mixture: np.ndarray, presence: np.ndarray | None = None) -> np.ndarray:
        """First the rest is shared out; then every stem becomes stem + floor * (mixture - stem).

        With both, what stems keep of each other must not add to the sum: a stem gives to the others what they keep of
        it, n * floor of n stems, and floor is 1 / n at most.

        Args:
            stems: float32 [sources, channels, samples]; not modified.
            mixture: float32 [channels, samples], the same samples.
            presence: float32 [sources, samples], 0 to 1 and at least 1 in all, where sources come and go; by default
                all are there.
        Returns:
            float32 [sources, channels, samples]; `stems` itself if nothing is to be done.
        Source of equal shares: Wisdom et al., "Differentiable consistency constraints for improved deep speech
            enhancement", ICASSP 2019 (mixture consistency).
        """
        if not self or not len(stems):
            return stems
        there = np.ones((len(stems), 1), np.float32) if presence is None else presence
        there, count = there[:, None], there.sum(0)
        if self.sum_to_mixture:
            stems = stems + there * ((mixture - stems.sum(0)) / count)
            floor = np.minimum(np.float32(self.floor), 1 / count)
            return stems * (1 - floor * count) + floor * there * mixture if self.floor else stems
        return stems + np.float32(self.floor) * there * (mixture - stems)
