"""Average precision: how well scores put what has a label above what has not."""

import numpy as np


def average_precision(scores: np.ndarray, present: np.ndarray) -> float:
    """The mean, over everything that has the label, of the precision at its own score.

    Things of one score stand at one place. By definition the area under the steps of precision over recall.

    Args:
        scores: float [things], higher is more likely. present: bool [things], at least one True.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], present[order].astype(bool)
    # The last place of each group of equal scores.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
    found = np.cumsum(hits)[ends]
    precision = found / (ends + 1)
    return float((np.diff(found, prepend=0) * precision).sum() / hits.sum())
