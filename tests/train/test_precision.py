"""Average precision against cases worked out by hand."""

import numpy as np
import pytest

from ussfast.train.precision import average_precision


@pytest.mark.parametrize(
    ("scores", "present", "expected"),
    [
        # In order of scores: yes, no, yes, no, yes; precision at those: 1, 2/3, 3/5.
        ([0.2, 0.9, 0.5, 0.4, 0.1], [0, 1, 0, 1, 1], (1 + 2 / 3 + 3 / 5) / 3),
        ([0.9, 0.8, 0.1], [1, 1, 0], 1.0),
        ([0.1, 0.8, 0.9], [1, 0, 0], 1 / 3),
        # All equal: nothing is told apart, what is left is the share of those that have it.
        ([0.5, 0.5, 0.5, 0.5], [1, 0, 0, 0], 1 / 4),
        # The first one, then two at one place: precision 1 and 2/3, recall 1/2 each.
        ([0.9, 0.5, 0.5], [1, 1, 0], 1 / 2 + 1 / 3),
        ([0.3], [1], 1.0),
    ],
)
def test_by_hand(scores, present, expected):
    assert average_precision(np.array(scores), np.array(present, bool)) == pytest.approx(expected, abs=1e-12)


def test_the_order_of_what_is_scored_does_not_matter():
    rng = np.random.default_rng(0)
    scores, present = rng.integers(0, 5, 40) / 5, rng.random(40) < 0.3
    order = rng.permutation(40)
    assert average_precision(scores, present) == pytest.approx(average_precision(scores[order], present[order]))
