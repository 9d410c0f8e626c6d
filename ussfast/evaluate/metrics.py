"""Separation metrics."""

from collections.abc import Sequence
from itertools import permutations

import numpy as np


def si_sdr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Scale-invariant signal-to-distortion ratio in dB, without mean removal.

    Args:
        estimate, reference: [..., samples], compared as one vector each; reference not silent.
    Returns:
        dB, limited to +-100.
    Source: Le Roux et al., "SDR - half-baked or well done?", ICASSP 2019.
    """
    est, ref = np.asarray(estimate, np.float64).ravel(), np.asarray(reference, np.float64).ravel()
    target = (est @ ref) / (ref @ ref) * ref
    # Floored, so that a silent estimate is as bad as can be, not 0 dB.
    ratio = max(target @ target, 1e-40) / (((est - target) ** 2).sum() + 1e-20)
    return float(np.clip(10 * np.log10(ratio), -100.0, 100.0))


def best_order(estimates: np.ndarray, references: np.ndarray, names: Sequence[str]) -> list[int]:
    """Index of the estimate for each reference: equal prompts are exchanged for the best mean SI-SDR.

    Args:
        estimates, references: [sources, samples]; names: the prompt of each.
    """
    order = list(range(len(names)))
    for name in dict.fromkeys(names):
        at = [i for i, other in enumerate(names) if other == name and references[i].any()]
        if len(at) > 1:
            score = {(i, j): si_sdr(estimates[i], references[j]) for i in at for j in at}
            best = max(permutations(at), key=lambda p: sum(score[pair] for pair in zip(p, at, strict=True)))
            for j, i in zip(at, best, strict=True):
                order[j] = i
    return order


def improvements(
    mixture: np.ndarray, estimates: np.ndarray, references: np.ndarray, names: tuple[str, ...], floor_db: float = -60.0
) -> list[float | None]:
    """SI-SDR improvement in dB over the mixture, per source; None where the reference is quieter than floor_db."""
    order = best_order(estimates, references, names)
    out: list[float | None] = []
    for j, reference in enumerate(references):
        loud = np.sqrt(np.mean(np.square(reference, dtype=np.float64))) > 10 ** (floor_db / 20)
        out.append(si_sdr(estimates[order[j]], reference) - si_sdr(mixture, reference) if loud else None)
    return out
