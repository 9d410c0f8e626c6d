"""What a loss says of high frequencies, which hold too little of a recording's energy to be heard in its SNR.

Without it a model may take everything above 8 kHz off a voice: that costs the SNR less than 0.01 dB, and listeners the
air of the recording.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

FLOOR_DB = -20.0  # errors that much below the reference, or below FAINT_DB of the mixture, hardly count
FAINT_DB = -40.0
LEAST_DB = -50.0  # mixtures with less than that of their energy up there say nothing (cut ends leak that much)


def above(x: Tensor, hz: float, rate: int) -> Tensor:
    """The spectrum of real signals [..., samples] from hz on, as a real row [..., n] of the same energy."""
    spectrum = torch.fft.rfft(x, norm="ortho")
    first = round(hz / rate * x.shape[-1])
    return torch.view_as_real(spectrum[..., first:]).flatten(-2) * 2**0.5


@dataclass(frozen=True)
class HighBand:
    """A batch's part above some frequency, as `above` gives it.

    est, ref: [batch, sources, n]. mixture: [batch, 1], energy of the mixtures up there; counts: float [batch, 1],
    1 where that is enough to say something, else 0. weight: of this loss against that of all frequencies.
    """

    est: Tensor
    ref: Tensor
    mixture: Tensor
    counts: Tensor
    weight: float

    @staticmethod
    def of(est: Tensor, ref: Tensor, mixture: Tensor, hz: float, rate: int, weight: float) -> "HighBand":
        """From signals est and ref [batch, sources, samples] and mixture [batch, samples]."""
        energy = above(mixture, hz, rate).square().sum(-1, keepdim=True)
        counts = energy > 10 ** (LEAST_DB / 10) * mixture.square().sum(-1, keepdim=True)
        return HighBand(above(est, hz, rate), above(ref, hz, rate), energy, counts.to(est.dtype), weight)

    def pairs(self, est: Tensor, ref: Tensor, items: Tensor) -> Tensor:
        """Weighted loss in dB of every pair: [groups, sources(est), sources(ref)].

        Args:
            est, ref: [groups, sources, n], of self's.
            items: int64 [groups], which of the batch each belongs to.
        """
        mixture = self.mixture.index_select(0, items)[:, None]  # [groups, 1, 1]
        errors = torch.stack([(est - ref[:, j : j + 1]).square().sum(-1) for j in range(ref.shape[1])], -1)
        floor = 10 ** (FLOOR_DB / 10) * ref.square().sum(-1)[:, None] + 10 ** (FAINT_DB / 10) * mixture
        values = 10 * torch.log10((errors + floor + 1e-12) / (mixture + 1e-12))
        return self.weight * self.counts.index_select(0, items)[:, None] * values
