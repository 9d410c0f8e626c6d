"""Events of scores: two thresholds, gaps, short ones; in pieces as in one."""

import numpy as np
import pytest

from ussfast import Event, InputError
from ussfast.detect.events import Events, Rules

BARE = {"minimum": 0, "gap": 0}


def found(scores, seconds=None, frame_seconds=0.1, **rules):
    """(onset, offset, score) of one label."""
    column = np.array(scores, np.float32)[:, None]
    events = Events(["x"], Rules(**rules), frame_seconds)
    events.push(column)
    return [(e.onset, e.offset, round(e.score, 3)) for e in events.finish(seconds or len(scores) * frame_seconds)]


def test_it_begins_above_the_threshold_and_goes_on_while_above_the_low_one():
    scores = [0.3, 0.4, 0.6, 0.3, 0.9, 0.26, 0.2, 0.3, 0.1, 0.7]
    assert found(scores, **BARE) == [(0.2, 0.6, 0.9), (0.9, 1.0, 0.7)]
    assert found(scores, low=0.5, **BARE) == [(0.2, 0.3, 0.6), (0.4, 0.5, 0.9), (0.9, 1.0, 0.7)]
    assert found(scores, low=0.15, **BARE) == [(0.2, 0.8, 0.9), (0.9, 1.0, 0.7)]
    assert found(scores, threshold=0.95, **BARE) == []


def test_a_score_at_a_threshold_is_not_above_it():
    assert found([0.5, 0.5], **BARE) == []
    assert found([0.75, 0.25, 0.25], **BARE) == [(0.0, 0.1, 0.75)]
    assert found([1.0], threshold=1, **BARE) == []
    assert found([0.0, 0.1], threshold=0, **BARE) == [(0.1, 0.2, 0.1)]


def test_gaps_are_filled_before_short_ones_are_dropped():
    flicker = [0.9, 0, 0.8, 0, 0.9, 0, 0, 0, 0.7]
    assert found(flicker, minimum=0, gap=0.15) == [(0.0, 0.5, 0.9), (0.8, 0.9, 0.7)]
    assert found(flicker, minimum=0.2, gap=0.15) == [(0.0, 0.5, 0.9)]
    assert found(flicker, minimum=0.2, gap=0) == []
    assert found(flicker, minimum=0, gap=0.31) == [(0.0, 0.9, 0.9)]


def test_what_is_just_as_long_as_a_limit_stays_as_it_is():
    assert found([0.9, 0, 0, 0, 0.9], minimum=0, gap=0.3) == [(0.0, 0.1, 0.9), (0.4, 0.5, 0.9)]
    assert found([0, 0.9, 0.9, 0.9], minimum=0.3, gap=0) == [(0.1, 0.4, 0.9)]
    assert found([0, 0.9, 0.9, 0.9], minimum=0.301, gap=0) == []


def test_none_goes_beyond_the_end():
    assert found([0, 0.9, 0.9], seconds=0.25, **BARE) == [(0.1, 0.25, 0.9)]
    assert found([0, 0, 0.9], seconds=0.2, **BARE) == []  # the last row may be at the very end


def test_pieces_give_what_the_whole_gives():
    rng = np.random.default_rng(0)
    scores = rng.random((400, 7), np.float32)
    scores[:, 3] = 0
    labels = [f"label {i}" for i in range(7)]
    for rules in (Rules(), Rules(0.8, 0.1, 0.3, 0.0), Rules(0.6, 0.6, 0.0, 0.05)):
        whole = Events(labels, rules, 0.04)
        whole.push(scores)
        expected = whole.finish(16.0)
        assert len(expected) > 6 and isinstance(expected[0], Event)
        assert [e.onset for e in expected] == sorted(e.onset for e in expected)
        for size in (1, 3, 64):
            pieces = Events(labels, rules, 0.04)
            for at in range(0, 400, size):
                pieces.push(scores[at : at + size])
                pieces.push(scores[:0])
            assert pieces.finish(16.0) == expected


def test_the_definition_written_out():
    rng = np.random.default_rng(1)
    scores = rng.random(300).astype(np.float32)
    on, expected = False, []
    for row, score in enumerate(scores):
        was, on = on, score > 0.7 or (on and score > 0.35)
        if on and not was:
            expected.append([row, row + 1, score])
        elif on:
            expected[-1][1:] = row + 1, max(expected[-1][2], score)
    assert found(scores, frame_seconds=1, threshold=0.7, **BARE) == [(a, b, round(float(c), 3)) for a, b, c in expected]


@pytest.mark.parametrize(
    ("rules", "says"),
    [
        ({"threshold": 1.1}, "threshold must be a number from 0 to 1, got 1.1"),
        ({"threshold": float("nan")}, "threshold must be"),
        ({"threshold": "high"}, "threshold must be"),
        ({"low": 0.6}, "low must be a number from 0 to 0.5, got 0.6"),
        ({"minimum": -1}, "minimum must be a number from 0 s to 3600 s"),
        ({"gap": float("inf")}, "gap must be"),
    ],
)
def test_rules_that_cannot_be(rules, says):
    with pytest.raises(InputError, match=says):
        Rules(**rules)


def test_scores_of_other_labels_are_refused():
    with pytest.raises(InputError, match=r"\[frames, 2\] expected, got \[3, 1\]"):
        Events(["a", "b"], Rules(), 0.1).push(np.zeros((3, 1)))
