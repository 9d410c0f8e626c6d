"""Scores of events and tags by other people's code: sed_eval and scikit-learn, which everybody's figures are made with.

They are the extra `detect-eval`. psds_eval has neither event-based scores with collars nor segment-based ones, and
sed_scores_eval takes these from sed_eval.
"""

import importlib
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ussfast.detect.events import Event
from ussfast.errors import InputError

EXTRA = "needs sed_eval and scikit-learn: pip install 'ussfast[detect-eval]'"


@dataclass(frozen=True)
class F:
    """F-score, precision and recall, from 0 to 1; error_rate: substitutions, deletions and insertions by references."""

    f: float
    precision: float
    recall: float
    error_rate: float


@dataclass(frozen=True)
class Scores:
    """micro: over all events or segments; macro: the mean of the labels' own; by_label: these."""

    micro: F
    macro: F
    by_label: dict[str, F]


def check_extra() -> None:
    """InputError where the packages are missing."""
    _sound_event()
    _average_precision()


def _imported(name: str) -> Any:
    try:
        with warnings.catch_warnings():  # of a package of theirs that is going out of use
            warnings.simplefilter("ignore")
            return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f"the evaluation of detectors {EXTRA} ({error})") from None


def _sound_event() -> Any:
    return _imported("sed_eval.sound_event")


def _average_precision() -> Any:
    return _imported("sklearn.metrics").average_precision_score


class EventScores:
    """Collects files: what is in them, and what was found.

    A: Mesaros, T. Heittola, T. Virtanen, "Metrics for polyphonic sound event detection", Applied Sciences 2016.

    Args:
        labels: that are measured; events of others may not come.
        collar: an event is found by one of its label whose onset is at most so far from its own, in seconds,
        length_share: and whose offset is as near, or at most this share of its length away.
        segment: length of the segments of segment-based scores, in seconds: a label is in a segment or not.
    Raises:
        InputError: the packages are missing.
    """

    def __init__(self, labels: Sequence[str], collar: float = 0.2, length_share: float = 0.2, segment: float = 1.0):
        # Names of our own: theirs have meanings there ("-" is none), and lose their spaces.
        self._names = {label: f"label {number}" for number, label in enumerate(labels)}
        library, names = _sound_event(), list(self._names.values())
        self._events = library.EventBasedMetrics(
            names, t_collar=float(collar), percentage_of_length=float(length_share)
        )
        self._segments = library.SegmentBasedMetrics(names, time_resolution=float(segment))
        # A label of which nothing is found has a precision of 0, as in DCASE: it is not left out of the mean.
        for metrics in (self._events, self._segments):
            metrics.empty_system_output_handling = "zero_score"

    def add(self, wanted: Sequence[Event], found: Sequence[Event], seconds: float) -> None:
        """Events of one recording that is so long."""
        both = [[self._plain(event) for event in events] for events in (wanted, found)]
        if any(both):
            self._events.evaluate(*both)
            longest = max(seconds, *(event["offset"] for events in both for event in events))
            self._segments.evaluate(*both, evaluated_length_seconds=longest)

    def _plain(self, event: Event) -> dict[str, Any]:
        return {"event_label": self._names[event.label], "onset": event.onset, "offset": event.offset}

    @property
    def event_based(self) -> Scores:
        return self._scores(self._events)

    @property
    def segment_based(self) -> Scores:
        return self._scores(self._segments)

    def _scores(self, metrics: Any) -> Scores:
        with warnings.catch_warnings():  # of means of nothing
            warnings.simplefilter("ignore")
            micro, macro = metrics.results_overall_metrics(), metrics.results_class_wise_average_metrics()
            own = metrics.results_class_wise_metrics()
        return Scores(_f(micro), _f(macro), {label: _f(own[name]) for label, name in self._names.items()})


def _f(found: dict[str, Any]) -> F:
    scores = found["f_measure"]
    values = (scores["f_measure"], scores["precision"], scores["recall"], found["error_rate"]["error_rate"])
    # What is not a number here has no references and nothing found, or nothing that is right.
    return F(*(float(value) if math.isfinite(value) else 0.0 for value in values))


def average_precision(scores: np.ndarray, right: np.ndarray) -> list[float]:
    """Of each label: the area under precision over recall of clips in the order of its scores.

    Args:
        scores: [clips, labels].
        right: bool [clips, labels]: which labels a clip has; each has at least one clip.
    Raises:
        InputError: the packages are missing.
    """
    measure = _average_precision()
    return [float(measure(right[:, column], scores[:, column])) for column in range(scores.shape[1])]
