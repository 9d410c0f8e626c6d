"""Query encoder: an example clip of a sound becomes a prompt vector."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast import stft
from ussfast.models.sfc import musical_edges
from ussfast.stft import StftConfig

BANDS = 64


class QueryEncoder(nn.Module):
    """Band energies of a clip, strided convolutions over time and pitch, and a mean over time weighted by attention.

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

    def forward(self, audio: Tensor) -> Tensor:
        """[clips, samples] at the model's rate -> [clips, dim]."""
        power = stft.analyze(audio, self.stft).abs().square() @ self.filters
        loud = power.mean((1, 2), keepdim=True) + 1e-12
        x = (power / loud + 1e-5).log()[:, None] / 4  # [clips, 1, frames, bands], values around -1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.silu(norm(convolution(x).permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        frames = F.silu(self.join(x.permute(0, 2, 3, 1).flatten(2)))
        return self.out((self.weigh(frames).softmax(1) * frames).sum(1))
