"""Losses of every pair of an estimate and a reference for training from mixtures: thresholded SNR, and L1 at several
resolutions.

Source: Saijo and Ogawa, "Self-Remixing: Unsupervised speech separation via separation and remixing", ICASSP 2023; the
threshold follows Wisdom et al., "Unsupervised sound separation using mixture invariant training", NeurIPS 2020.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ussfast.long_audio.permutation import cut, errors

EPS = 1e-8
RESOLUTIONS = ((512, 400, 160), (1024, 800, 320), (2048, 1600, 640))  # n_fft, window, hop


@dataclass(frozen=True)
class SnrPairs:
    """Negative SNR in dB of every pair, [batch, est, samples] and [batch, ref, samples] -> [batch, est, ref]:

        10 log10(|e - r|^2 + 10^(-snr_max / 10) * threshold + 1e-8) - 10 log10(|r|^2 + 1e-8)

    snr_max: in dB; errors further below hardly count.
    threshold: "reference", the energy of r, or "mixture", that of the sum over references.
    only_denominator: leaves out the second term, which no gradient sees but which assigns sources.
    """

    snr_max: float = 30.0
    threshold: Literal["reference", "mixture"] = "reference"
    only_denominator: bool = False

    def __call__(self, est: Tensor, ref: Tensor) -> Tensor:
        est, ref = cut(est, ref)
        power = ref.square().sum(-1)
        base = power if self.threshold == "reference" else ref.sum(1).square().sum(-1, keepdim=True)
        noise = 10 * torch.log10(errors(est, ref) + (10 ** (-self.snr_max / 10) * base + EPS)[:, None])
        return noise if self.only_denominator else noise - 10 * torch.log10(power + EPS)[:, None]


@dataclass(frozen=True)
class MultiResolutionPairs:
    """`snr`, plus the mean absolute error of waveforms and of magnitudes, the latter averaged over `RESOLUTIONS`.

    log: compares log(magnitude + 1e-8) instead.
    """

    snr: SnrPairs = SnrPairs()
    log: bool = False

    def __call__(self, est: Tensor, ref: Tensor) -> Tensor:
        est, ref = cut(est, ref)
        total = self.snr(est, ref) + _l1(est, ref)
        spectral = [_l1(self._magnitudes(est, *sizes), self._magnitudes(ref, *sizes)) for sizes in RESOLUTIONS]
        return total + sum(spectral[1:], spectral[0]) / len(RESOLUTIONS)

    def _magnitudes(self, audio: Tensor, n_fft: int, length: int, hop: int) -> Tensor:
        """[batch, sources, bins * frames]."""
        window = torch.hann_window(length, device=audio.device, dtype=audio.dtype)
        spec = torch.stft(audio.flatten(0, 1), n_fft, hop, length, window, return_complex=True)
        magnitude = spec.abs().flatten(1).unflatten(0, audio.shape[:2])
        return (magnitude + EPS).log() if self.log else magnitude


def _l1(est: Tensor, ref: Tensor) -> Tensor:
    return torch.stack([(est - ref[:, j : j + 1]).abs().mean(-1) for j in range(ref.shape[1])], -1)
