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
    return _db(ratio)


def snr(estimate: np.ndarray, reference: np.ndarray) -> float:
    """Signal-to-noise ratio 10 log10(|s|^2 / |s - e|^2) in dB, limited to +-100; a wrong level costs.

    Args:
        estimate, reference: [..., samples], compared as one vector each.
    """
    est, ref = np.asarray(estimate, np.float64).ravel(), np.asarray(reference, np.float64).ravel()
    return _db((ref @ ref) / (((ref - est) ** 2).sum() + 1e-20))


def sdr(estimate: np.ndarray, reference: np.ndarray, rate: int, seconds: float = 2.0) -> float | None:
    """Signal-to-distortion ratio by the median protocol: median over whole segments of `seconds`.

    Segments where the reference or the estimate is silent are skipped, and so is the rest after the last whole one.
    With one window per segment, the SDR of BSS Eval v4 (where spatial distortion counts as an error) is the plain SNR
    of the segment: museval gives the same figures (recorded in the tests).

    Args:
        estimate, reference: [samples] at `rate` Hz.
    Returns:
        dB, limited to +-100; None where no segment is left.
    Source: Stoeter, Liutkus and Ito, "The 2018 signal separation evaluation campaign", LVA/ICA 2018 (BSS Eval v4,
    medians over segments and then over tracks); segments of 2 s as in Chen et al., "Zero-shot audio source
    separation through query-based learning from weakly-labeled data", AAAI 2022.
    """
    size = round(seconds * rate)
    starts = range(0, len(reference) - size + 1, size)
    pairs = [(estimate[i : i + size], reference[i : i + size]) for i in starts]
    found = [snr(est, ref) for est, ref in pairs if est.any() and ref.any()]
    return float(np.median(found)) if found else None


def level_db(signal: np.ndarray, relative_to: np.ndarray) -> float:
    """Level of a signal relative to another in dB, limited to +-100: how much leaks into what should be silent."""
    power, base = (float(np.square(x, dtype=np.float64).sum()) for x in (signal, relative_to))
    return _db(power / (base + 1e-20))


def audible(reference: np.ndarray, floor_db: float = -60.0) -> bool:
    """Whether a reference is louder than floor_db (full scale is 0 dB); quieter ones are not measured."""
    return bool(np.sqrt(np.mean(np.square(reference, dtype=np.float64))) > 10 ** (floor_db / 20))


def _db(ratio: float) -> float:
    """Of a ratio of powers, limited to +-100 dB."""
    return float(np.clip(10 * np.log10(max(ratio, 1e-40)), -100.0, 100.0))


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
        loud = audible(reference, floor_db)
        out.append(si_sdr(estimates[order[j]], reference) - si_sdr(mixture, reference) if loud else None)
    return out
