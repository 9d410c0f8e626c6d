"""The stems of a stream that are kept, as one sound, while prompts come and go."""

from collections.abc import Collection

import numpy as np

from ussfast.audio.remix import Remix
from ussfast.prompts.names import RESIDUAL
from ussfast.separation import Separation


class Kept:
    """Sums stems; which of them changes in straight lines, so that nothing jumps.

    Args:
        labels: of those that are kept; "residual" is what no stem took.
        fade: samples that a change takes.
        floor: gain that everything else keeps at least, as `Remix` has it.
    """

    def __init__(self, labels: Collection[str], fade: int, floor: float = 0.0):
        self._labels, self._fade, self._remix = frozenset(labels), fade, Remix(floor=floor)
        self._places: dict[str, int] = {}  # of `fade`: how far each is there

    def change(self, labels: Collection[str]) -> None:
        """Keeps these from the next piece on."""
        self._labels = frozenset(labels)

    def __call__(self, piece: Separation, asked: Collection[str]) -> np.ndarray:
        """float32 [channels, samples] of a piece of the stream.

        asked: labels of its stems now. Others are former ones that the session fades out: they stay as kept as they
            were.
        """
        count = piece.mixture.shape[1]
        if not count:
            return piece.mixture
        before, parts = self._places, []
        self._places = {}
        for label in dict.fromkeys((*piece, RESIDUAL)):
            goal = self._fade if label in self._labels else 0
            place = before.get(label, goal)
            row = self._row(place, goal if label in asked or label == RESIDUAL else place, count)
            self._places[label] = int(row[-1])
            if len(row) > 1 or row[0]:
                track = piece[label] if label in piece else piece.residual
                whole = row.min() == self._fade
                parts.append(track if whole else track * (row / np.float32(self._fade)).astype(np.float32))
        out = sum(parts[1:], parts[0]) if parts else np.zeros_like(piece.mixture)
        return self._remix(out[None], piece.mixture)[0]

    def _row(self, place: int, goal: int, count: int) -> np.ndarray:
        """The place of a stem at each sample, or the one of all of them."""
        if place == goal:
            return np.array([place])
        steps = np.arange(1, count + 1)
        return np.minimum(place + steps, goal) if goal > place else np.maximum(place - steps, goal)
