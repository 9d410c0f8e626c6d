"""Statistics of the transfer study, against numbers worked out by hand."""

import sys

import pytest

from ussfast.errors import InputError
from ussfast.evaluate.transfer_stats import best_of, of_excerpts, over_seeds, steps_to_reach, wilcoxon


def test_all_pairs_greater():
    """Of 2^n equally likely signs only one is as far out: p = 2^-n for n different differences."""
    treated = [1.0, 2.5, 3.75, 4.875, 6.0, 7.1, 8.3, 9.6]
    control = [0.0] * 8
    assert wilcoxon(treated, control) == pytest.approx(2**-8)
    assert wilcoxon(control, treated) == pytest.approx(1.0)


def test_one_small_pair_the_other_way():
    """Ranks 1 to 5 with the smallest negative: W+ = 14 of 15; sign patterns as far out are those with rank sums of
    negatives 0 or 1, which are two of 32."""
    assert wilcoxon([-1.0, 2.0, 3.0, 4.0, 5.0], [0.0] * 5) == pytest.approx(2 / 32)
    # The largest one negative: W- = 5; subsets of 1..5 with a sum of at most 5: {}, 1, 2, 3, 4, 5, 12, 13, 14, 23.
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, -5.0], [0.0] * 5) == pytest.approx(10 / 32)


def test_no_difference_says_nothing():
    assert wilcoxon([1.0, 2.0], [1.0, 2.0]) == 1.0


def test_pairs_must_be_pairs():
    for pair in (([1.0], [1.0, 2.0]), ([], [])):
        with pytest.raises(ValueError, match="pairs are compared"):
            wilcoxon(*pair)


def test_without_scipy(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.stats", None)
    with pytest.raises(InputError, match=r"needs scipy: pip install 'ussfast\[evaluate\]'"):
        wilcoxon([1.0, 2.0], [0.0, 0.0])


def test_steps_to_a_score():
    curve = [(50, -1.0), (100, 2.0), (150, 1.0), (200, 3.0)]
    assert [steps_to_reach(curve, score) for score in (-2.0, 2.0, 2.1, 3.1)] == [50, 100, 200, None]
    assert best_of(curve) == 3.0 and steps_to_reach([], 0.0) is None


def test_means_of_excerpts_and_seeds():
    assert of_excerpts([[1.0, 3.0], [None, 5.0], [None, None]]) == [2.0, 5.0, None]
    assert over_seeds([[1.0, None, 4.0], [2.0, None, 6.0]]) == [1.5, 5.0]
    with pytest.raises(ValueError, match="longer"):
        over_seeds([[1.0], [1.0, 2.0]])
