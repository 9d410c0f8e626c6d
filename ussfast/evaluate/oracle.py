"""Upper bounds: what the best real-valued mask could reach in a model's own STFT, knowing the references."""

import numpy as np
import torch
from torch import Tensor

from ussfast.stft import StftConfig, analyze, synthesize

ORACLES = ("oracle_irm", "oracle_psm")
# Power below which a bin counts as empty: 200 dB under full scale, far from float32's smallest number.
EMPTY = 1e-20


def ratio_mask(sources: Tensor) -> Tensor:
    """Ideal ratio mask |S|^2 / sum |S|^2, in the form of a Wiener filter.

    Args:
        sources: complex [sources, frames, bins].
    Returns:
        [sources, frames, bins] in 0..1, over the sources summing to 1 (or 0 where there is nothing).
    Source: Liutkus and Badeau, "Generalized Wiener filtering with fractional power spectrograms", ICASSP 2015.
    """
    power = _power(sources)
    return power / power.sum(0).clamp_min(EMPTY)


def phase_sensitive_mask(sources: Tensor) -> Tensor:
    """Phase-sensitive mask |S|/|X| cos(angle of S to X), clipped to 0..1: per bin the best such mask.

    Args:
        sources: complex [sources, frames, bins]; their sum is the mixture X.
    Returns:
        [sources, frames, bins].
    Source: Erdogan et al., "Phase-sensitive and recognition-boosted speech separation using deep recurrent neural
    networks", ICASSP 2015.
    """
    mixture = sources.sum(0)
    along = sources.real * mixture.real + sources.imag * mixture.imag
    return (along / _power(mixture).clamp_min(EMPTY)).clamp(0, 1)


def oracle_estimates(mixture: np.ndarray, references: np.ndarray, config: StftConfig) -> dict[str, np.ndarray]:
    """What the ideal masks make of the mixture.

    Args:
        mixture: float32 [samples], the sum of the references.
        references: float32 [sources, samples].
        config: the model's STFT.
    Returns:
        {name in ORACLES: float32 [sources, samples]}.
    """
    spectrum = analyze(torch.from_numpy(mixture)[None], config)
    sources = analyze(torch.from_numpy(references), config)
    found = {}
    for name, mask in zip(ORACLES, (ratio_mask(sources), phase_sensitive_mask(sources)), strict=True):
        estimate = torch.view_as_real(mask * spectrum)[None]
        found[name] = synthesize(estimate, config, mixture.shape[-1])[0].numpy()
    return found


def _power(spectrum: Tensor) -> Tensor:
    return spectrum.real.square() + spectrum.imag.square()
