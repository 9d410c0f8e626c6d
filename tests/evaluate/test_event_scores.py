"""Scores of events and tags, against cases by hand."""

import sys

import numpy as np
import pytest

from ussfast import InputError
from ussfast.detect.events import Event
from ussfast.evaluate import event_scores


def event(label, onset, offset):
    return Event(label, onset, offset, 1.0)


@pytest.mark.parametrize("name", ["sed_eval.sound_event", "sklearn.metrics"])
def test_a_package_that_is_missing_is_named(monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    if name.startswith("sk"):  # the one before it may be missing, too
        monkeypatch.setattr(event_scores, "_sound_event", lambda: None)
    with pytest.raises(InputError, match=r"pip install 'ussfast\[detect-eval\]'"):
        event_scores.check_extra()


@pytest.fixture
def scores():
    pytest.importorskip("sed_eval", reason="the extra detect-eval is not installed")
    return event_scores.EventScores(["dog", "-"])  # a name that means nothing there


def test_events_and_segments_by_hand(scores):
    # An onset at most 0.2 s off, an offset at most 0.2 s or a fifth of the event.
    scores.add([event("dog", 1, 5)], [event("dog", 1.2, 5.8)], 10)  # right
    scores.add([event("dog", 1, 5)], [event("dog", 1, 5.9)], 10)  # too long
    scores.add([event("-", 1, 5)], [event("-", 1.3, 5)], 10)  # too late
    scores.add([event("-", 1, 2)], [], 10)
    scores.add([], [event("-", 1, 2)], 10)
    scores.add([], [], 10)
    found = scores.event_based
    assert (found.micro.precision, found.micro.recall, found.micro.f) == pytest.approx((1 / 4, 1 / 4, 1 / 4))
    dog, dash = found.by_label["dog"], found.by_label["-"]
    assert (dog.f, dog.precision, dog.recall, dash.f) == pytest.approx((1 / 2, 1 / 2, 1 / 2, 0))
    assert found.macro.f == pytest.approx(1 / 4)
    # Segments of 1 s: of the dog, 8 are right and 2 are too many; of the other, 4 right, 1 missed, 1 too many.
    found = scores.segment_based
    assert (found.by_label["dog"].precision, found.by_label["dog"].recall) == pytest.approx((8 / 10, 1))
    assert (found.by_label["-"].precision, found.by_label["-"].recall) == pytest.approx((4 / 5, 4 / 5))
    assert (found.micro.precision, found.micro.recall) == pytest.approx((12 / 15, 12 / 13))
    assert found.micro.error_rate == pytest.approx(4 / 13)


def test_nothing_found_counts_in_the_mean(scores):
    scores.add([event("dog", 1, 2), event("-", 1, 2)], [event("dog", 1, 2)], 10)
    for found in (scores.event_based, scores.segment_based):
        assert (found.by_label["dog"].f, found.by_label["-"].f, found.macro.f) == (1, 0, 0.5)
        assert found.micro.f == pytest.approx(2 / 3)


def test_nothing_at_all(scores):
    assert scores.event_based.micro == scores.segment_based.micro == event_scores.F(0, 0, 0, 0)


def test_settings():
    pytest.importorskip("sed_eval", reason="the extra detect-eval is not installed")
    scores = event_scores.EventScores(["dog"], collar=1, length_share=0, segment=0.5)
    scores.add([event("dog", 0, 5)], [event("dog", 1, 4.4)], 5)
    assert scores.event_based.micro.f == 1
    assert scores.segment_based.micro.recall == pytest.approx(7 / 10)


def test_average_precision_by_hand():
    pytest.importorskip("sklearn", reason="the extra detect-eval is not installed")
    tags = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.1, 0.4]])
    right = np.array([[True, False], [False, False], [True, True], [False, True]])
    # In the order of scores: right, wrong, right, wrong; right, right, wrong, wrong.
    assert event_scores.average_precision(tags, right) == pytest.approx([(1 + 2 / 3) / 2, 1])
