"""What stands between bins and bands: features of single bins, tokens made of them, masks that weigh them."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models.causal.layers import EPS
from ussfast.ops import band_masks
from ussfast.ops.band_split import runs


class BinFeatures(nn.Module):
    """SiLU of a convolution over three neighbouring bins, in this frame and the two before it."""

    def __init__(self, features: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, 3, 3, 3) / math.sqrt(27))  # [features, channels, frames, bins]
        self.bias = nn.Parameter(torch.zeros(features))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, 2 + frames, bins, 3] -> [batch, frames, bins, features]."""
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=(0, 1))
        return F.silu(y).permute(0, 2, 3, 1).contiguous()


class Bands(nn.Module):
    """Widths of bands, and products with a matrix per band: bands of equal width that are neighbours in one go."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.widths, self.runs = widths, runs(widths)


class BandEncoder(Bands):
    """A linear map per band from the features of its bins to one token."""

    def __init__(self, widths: tuple[int, ...], features: int, dim: int):
        super().__init__(widths)
        self.weights = nn.ParameterList(
            torch.randn(n, w * features, dim) / math.sqrt(w * features) for w, n in self.runs
        )

    def forward(self, features: Tensor) -> Tensor:
        """[batch, frames, bins, features] -> [batch, frames, bands, dim]."""
        rows, parts, at = features.flatten(2), [], 0
        for (width, n), weight in zip(self.runs, self.weights, strict=True):
            size = n * width * features.shape[-1]
            parts.append(torch.einsum("btnw,nwd->btnd", rows[..., at : at + size].unflatten(-1, (n, -1)), weight))
            at += size
        return torch.cat(parts, 2)


class BandDecoder(Bands):
    """Masks from band tokens: per band a gated layer, then a complex number per bin, and weights with which the
    features of every bin of the band add to it.

    precision: of the matrix products, see `band_masks`.
    """

    precision = "float32"

    def __init__(self, widths: tuple[int, ...], features: int, dim: int):
        super().__init__(widths)
        hidden, bands = 2 * dim, len(widths)
        self.norm = nn.Parameter(torch.ones(dim))
        self.inner = nn.Parameter(torch.randn(bands, dim, 2 * hidden) / math.sqrt(dim))
        self.outer = nn.ParameterList(torch.randn(n, hidden, 2 * w) * (0.3 / math.sqrt(hidden)) for w, n in self.runs)
        self.biases = nn.ParameterList(torch.tensor([0.5, 0.0]).repeat(n, w) for w, n in self.runs)
        self.weigh = nn.Parameter(torch.randn(bands, hidden, 2 * features) * (0.3 / math.sqrt(hidden * features)))

    def forward(self, x: Tensor, features: Tensor) -> Tensor:
        """[batch, sources, frames, bands, dim], [batch, frames, bins, features] -> masks [batch, sources, frames,
        bins, 2]."""
        outer, biases = (torch.cat([w.flatten() for w in kind]) for kind in (self.outer, self.biases))
        return band_masks(
            x, features, self.norm, self.inner, self.weigh, outer, biases,
            bands=self.widths, eps=EPS, precision=self.precision,
        )  # fmt: skip
