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
        rows = {label: self._row(label, label in asked, count) for label in piece}
        rows.setdefault(RESIDUAL, self._row(RESIDUAL, True, count))
        self._places = {label: int(row[-1]) for label, row in rows.items()}
        return self._remix(self._sum(piece, rows)[None], piece.mixture)[0]

    def _row(self, label: str, moves: bool, count: int) -> np.ndarray:
        """The place of a stem at each sample."""
        goal = self._fade if label in self._labels else 0
        place = self._places.get(label, goal)
        steps = np.arange(1, count + 1)
        if not moves:
            goal = place
        return np.minimum(place + steps, goal) if goal >= place else np.maximum(place - steps, goal)

    def _sum(self, piece: Separation, rows: dict[str, np.ndarray]) -> np.ndarray:
        parts: list[np.ndarray] = []
        for label, row in rows.items():
            if not row.any():
                continue
            track = piece[label] if label in piece else piece.residual
            whole = row.min() == self._fade
            parts.append(track if whole else track * (row / np.float32(self._fade)).astype(np.float32))
        return sum(parts[1:], parts[0]) if parts else np.zeros_like(piece.mixture)
