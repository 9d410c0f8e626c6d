"""Statistics of the transfer study; no torch here."""

from collections.abc import Sequence

import numpy as np

from ussfast.errors import InputError

STAR = 1e-3  # below this probability a difference gets a star

Curve = Sequence[tuple[int, float]]  # step and validation score, in the order of steps


def wilcoxon(treated: Sequence[float], control: Sequence[float]) -> float:
    """One-sided Wilcoxon signed-rank test that `treated` is greater than `control`, excerpt by excerpt.

    Args:
        treated, control: a score of each excerpt, in the same order.
    Returns:
        p; 1.0 where no pair differs, since nothing speaks for a difference then.
    Raises:
        InputError: scipy is missing. ValueError: not as many of one as of the other, or none.
    Source: Wilcoxon, "Individual comparisons by ranking methods", Biometrics Bulletin 1945.
    """
    if len(treated) != len(control) or not len(treated):
        raise ValueError(f"{len(treated)} and {len(control)} scores: pairs are compared")
    difference = np.asarray(treated, np.float64) - np.asarray(control, np.float64)
    if not difference.any():
        return 1.0
    try:
        from scipy.stats import wilcoxon as test
    except ImportError:
        raise InputError("the test of the study needs scipy: pip install 'ussfast[evaluate]'") from None
    return float(test(difference, alternative="greater").pvalue)


def steps_to_reach(curve: Curve, score: float) -> int | None:
    """The first validated step whose score is at least `score`; None if there is none."""
    return next((step for step, value in curve if value >= score), None)


def best_of(curve: Curve) -> float:
    """The highest score of a curve that is not empty: that of the weights that a run leaves."""
    return max(value for _, value in curve)


def of_excerpts(scores: Sequence[Sequence[float | None]]) -> list[float | None]:
    """The mean over the sources of each excerpt; None where all of them are silent.

    scores: by excerpt and source, None for a source that is silent there.
    """
    known = [[value for value in row if value is not None] for row in scores]
    return [float(np.mean(row)) if row else None for row in known]


def over_seeds(runs: Sequence[Sequence[float | None]]) -> list[float]:
    """The mean over runs of each excerpt that has a score; excerpts are the same in all of them.

    One value per excerpt and not per run: excerpts are what a test may count as independent.
    """
    columns = [[value for value in column if value is not None] for column in zip(*runs, strict=True)]
    return [float(np.mean(column)) for column in columns if column]
