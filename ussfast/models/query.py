"""Query encoder: an example clip of a sound becomes a prompt vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast import stft
from ussfast.models import statistics
from ussfast.models.sfc import musical_edges
from ussfast.stft import StftConfig

BANDS = 64
MOMENTUM = 0.01  # of the mean and variance of statistics


class QueryEncoder(nn.Module):
    """Band energies of a clip, strided convolutions over time and pitch, and a mean over time weighted by attention; to
    which a linear layer on statistics of the same energies adds: of few labelled clips it learns more.

    Its result does not depend on the clip's level.
    """

    filters: Tensor

    def __init__(self, config: StftConfig, sample_rate: int, dim: int, widths: tuple[int, ...] = (32, 64, 96, 128)):
        super().__init__()
        self.stft = config
        filters = torch.zeros(config.bins, BANDS)
        for band, (start, end) in enumerate(musical_edges(config.n_fft, sample_rate, BANDS)):
            filters[start:end, band] = 1 / (end - start)
        self.register_buffer("filters", filters, persistent=False)
        pairs = list(zip((1, *widths[:-1]), widths, strict=True))
        self.convolutions = nn.ModuleList(nn.Conv2d(a, b, 3, stride=2, padding=1) for a, b in pairs)
        self.norms = nn.ModuleList(nn.RMSNorm(b, eps=1e-6) for _, b in pairs)
        last = widths[-1]
        self.join = nn.Linear(last * (BANDS >> len(widths)), last)
        self.weigh = nn.Linear(last, 1)
        self.out = nn.Linear(last, dim)
        self.described = Described(dim)

    def forward(self, audio: Tensor) -> Tensor:
        """[clips, samples] at the model's rate -> [clips, dim]."""
        bins = stft.analyze(audio, self.stft).abs().square()
        power = bins @ self.filters
        loud = power.mean((1, 2), keepdim=True) + 1e-12
        x = (power / loud + 1e-5).log()[:, None] / 4  # [clips, 1, frames, bands], values around -1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(convolution(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        frames = F.silu(self.join(x.permute(0, 2, 3, 1).flatten(2)))
        return self.out((self.weigh(frames).softmax(1) * frames).sum(1)) + self.described(bins, power)


class Described(nn.Module):
    """A linear layer on the statistics of clips, each less its mean over the training clips and divided by its spread.

    These are parameters without gradients, so that a running mean of the weights has theirs too.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(statistics.count()), requires_grad=False)
        self.variance = nn.Parameter(torch.ones(statistics.count()), requires_grad=False)
        self.out = nn.Linear(statistics.count(), dim, bias=False)

    def forward(self, bins: Tensor, bands: Tensor) -> Tensor:
        """[clips, frames, bins] and [clips, frames, bands] of power -> [clips, dim]."""
        with torch.no_grad():
            found = statistics.describe(bins, bands)
            if self.training and len(found) > 1:
                self.mean.lerp_(found.mean(0), MOMENTUM)
                self.variance.lerp_((found - self.mean).square().mean(0), MOMENTUM)
            found = ((found - self.mean) / (self.variance + 1e-4).sqrt()).clamp(-5, 5)
        return self.out(found)
