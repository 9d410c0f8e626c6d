"""Scores over time become events: by two thresholds, gaps filled, short ones dropped. Nothing here needs torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np

from ussfast.errors import InputError
from ussfast.values import number

ROUNDING = 1e-9  # seconds: multiples of a frame are not exact
LONGEST = 3600.0


@dataclass(frozen=True)
class Event:
    """A label from `onset` to `offset`, in seconds; score: the highest one within."""

    label: str
    onset: float
    offset: float
    score: float


@dataclass(frozen=True)
class Rules:
    """What makes an event of scores.

    threshold: it begins where the score rises above this, from 0 to 1.
    low: and goes on while the score stays above this, at most `threshold`; None for half of it.
    gap: then gaps of a label that are shorter than this are filled, in seconds.
    minimum: then events that are shorter than this are dropped, in seconds.
    Raises:
        InputError: a value that is no number in these ranges.
    """

    threshold: float = 0.5
    low: float | None = None
    minimum: float = 0.1
    gap: float = 0.25

    def __post_init__(self) -> None:
        keep = partial(object.__setattr__, self)
        keep("threshold", number(self.threshold, "threshold", 0, 1))
        if self.low is not None:
            keep("low", number(self.low, "low", 0, self.threshold))
        keep("minimum", number(self.minimum, "minimum", 0, LONGEST, "s"))
        keep("gap", number(self.gap, "gap", 0, LONGEST, "s"))

    @property
    def lower(self) -> float:
        return self.threshold / 2 if self.low is None else self.low


@dataclass
class _Run:
    """Rows from `first` to before `end`."""

    first: int
    end: int
    score: float


class Events:
    """Collects the events of a recording whose scores come in pieces; memory is that of the events.

    Row r is at r * frame_seconds and lasts until the next one.
    """

    def __init__(self, labels: Sequence[str], rules: Rules, frame_seconds: float):
        self.labels, self.rules, self.frame_seconds = tuple(labels), rules, frame_seconds
        self._rows = 0
        self._on = np.zeros(len(self.labels), bool)
        self._runs: list[list[_Run]] = [[] for _ in self.labels]

    def push(self, scores: np.ndarray) -> None:
        """The next rows, [rows, labels]."""
        if scores.ndim != 2 or scores.shape[1] != len(self.labels):
            raise InputError(f"scores [frames, {len(self.labels)}] expected, got {list(scores.shape)}")
        if not len(scores):
            return
        # What each row says: on, off, or as the row before.
        rows = np.arange(len(scores))[:, None]
        high, low = scores > self.rules.threshold, scores <= self.rules.lower
        said = np.maximum.accumulate(np.where(high | low, rows, -1), 0)
        on = np.where(said < 0, self._on, np.take_along_axis(high, np.maximum(said, 0), 0))
        for label in np.flatnonzero(on.any(0)).tolist():
            self._add(label, on[:, label], scores[:, label])
        self._on, self._rows = on[-1], self._rows + len(scores)

    def _add(self, label: int, on: np.ndarray, scores: np.ndarray) -> None:
        runs = self._runs[label]
        edges = (0, *(np.flatnonzero(on[1:] != on[:-1]) + 1).tolist(), len(on))
        for first, end in pairwise(edges):
            if not on[first]:
                continue
            run = _Run(self._rows + first, self._rows + end, float(scores[first:end].max()))
            apart = (run.first - runs[-1].end) * self.frame_seconds if runs else np.inf
            # Those that touch are one: they went on from one piece to the next.
            if runs and (run.first == runs[-1].end or apart < self.rules.gap - ROUNDING):
                runs[-1] = _Run(runs[-1].first, run.end, max(runs[-1].score, run.score))
            else:
                runs.append(run)

    def finish(self, seconds: float) -> list[Event]:
        """All events of a recording that is so long, in order of their onsets."""
        found = []
        for label, runs in zip(self.labels, self._runs, strict=True):
            for run in runs:
                onset, offset = run.first * self.frame_seconds, min(run.end * self.frame_seconds, seconds)
                if offset > onset and offset - onset >= self.rules.minimum - ROUNDING:
                    found.append(Event(label, round(onset, 6), round(offset, 6), run.score))
        return sorted(found, key=lambda event: (event.onset, event.offset))
