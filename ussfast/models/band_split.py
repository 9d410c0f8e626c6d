"""Band-split encoder and decoder: bins of a spectrum <-> one feature vector per frame and band.

Source: Luo & Yu, "Music source separation with band-split RNN", 2023; band layout of TUSS (Saijo et al., 2024).
Bands of equal width lie next to each other, so each run of them is one batched matrix product.
"""

import math
from itertools import groupby

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError


def tuss_bands(sample_rate: int, bins: int) -> tuple[int, ...]:
    """Widths in bins of the bands that TUSS uses, from low to high; they sum to `bins`."""
    width = (sample_rate // 2) / bins
    bands: list[int] = []
    for low, high, size in ((0, 1e3, 2), (1e3, 2e3, 4), (2e3, 4e3, 12), (4e3, 8e3, 24), (8e3, 16e3, 48)):
        bands += [size] * math.ceil((high - low) / (size * width))
    rest, parts = bins - sum(bands), 4 if sample_rate == 48000 else 2
    if rest < parts:
        raise InputError(
            f"the TUSS band rule leaves {rest} of {bins} bins above 16 kHz at {sample_rate} Hz, "
            f"fewer than {parts}: give the bands explicitly"
        )
    last = rest - rest // parts * (parts - 1)
    return (*bands, *[rest // parts] * (parts - 1), last)


def runs(bands: tuple[int, ...]) -> list[tuple[int, int]]:
    """(width, count) of each run of equal neighbouring bands."""
    return [(width, len(list(group))) for width, group in groupby(bands)]


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[bands, rows, in] x [bands, out, in] + [bands, out] -> [bands, rows, out]."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def as_complex(pairs: Tensor) -> Tensor:
    """[..., re/im] -> complex; in float32 at least, since there are no complex numbers of less that multiply."""
    return torch.view_as_complex(pairs.to(torch.promote_types(pairs.dtype, torch.float32)).contiguous())


class BandNorm(nn.Module):
    """GroupNorm with one group per band, jointly over channels and time: the result depends on the whole segment."""

    def __init__(self, bands: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(bands, channels))
        self.bias = nn.Parameter(torch.zeros(bands, channels))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, bands, channels] -> [bands, batch * frames, channels]."""
        # Two passes (mean first): squares of raw band signals would cancel in float32.
        centred = x - x.mean((1, 3), keepdim=True)
        scale = (centred.square().mean((1, 3), keepdim=True) + 1e-5).rsqrt()
        x = centred * scale * self.weight + self.bias
        return x.permute(2, 0, 1, 3).flatten(1, 2)


class BandSplit(nn.Module):
    """Encoder: per band, norm over (re/im of its bins, time), then a linear map to `dim` channels."""

    def __init__(self, bands: tuple[int, ...], dim: int):
        super().__init__()
        self.runs = runs(bands)
        self.norms = nn.ModuleList(BandNorm(n, 2 * width) for width, n in self.runs)
        self.weights = nn.ParameterList(
            torch.randn(n, dim, 2 * width) / math.sqrt(2 * width) for width, n in self.runs
        )
        self.biases = nn.ParameterList(torch.zeros(n, dim) for _, n in self.runs)

    def forward(self, spec: Tensor) -> Tensor:
        """[batch, frames, bins] complex -> [batch, frames, bands, dim]."""
        batch, frames, _ = spec.shape
        channels = torch.view_as_real(spec).flatten(2)  # bin-major, re/im fastest
        sizes = [2 * width * n for width, n in self.runs]
        out = []
        for part, (_, n), norm, weight, bias in zip(
            channels.split(sizes, -1), self.runs, self.norms, self.weights, self.biases, strict=True
        ):
            out.append(grouped_linear(norm(part.unflatten(-1, (n, -1))), weight, bias))
        return torch.cat(out).unflatten(1, (batch, frames)).permute(1, 2, 0, 3).contiguous()


class BandMerge(nn.Module):
    """Decoder: per band, norm, two tanh layers, and a GLU to re/im of every bin and source (a complex spectrum)."""

    def __init__(self, bands: tuple[int, ...], dim: int, sources: int, expansion: int = 4):
        super().__init__()
        self.runs, self.sources = runs(bands), sources
        count, hidden = len(bands), expansion * dim
        self.norm = BandNorm(count, dim)
        self.weight1 = nn.Parameter(torch.randn(count, hidden, dim) / math.sqrt(dim))
        self.bias1 = nn.Parameter(torch.zeros(count, hidden))
        self.weight2 = nn.Parameter(torch.randn(count, hidden, hidden) / math.sqrt(hidden))
        self.bias2 = nn.Parameter(torch.zeros(count, hidden))
        self.weights3 = nn.ParameterList(
            torch.randn(n, 4 * width * sources, hidden) / math.sqrt(hidden) for width, n in self.runs
        )
        self.biases3 = nn.ParameterList(torch.zeros(n, 4 * width * sources) for width, n in self.runs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, bands, dim] -> [batch, sources, frames, bins] complex."""
        batch, frames = x.shape[:2]
        x = grouped_linear(self.norm(x), self.weight1, self.bias1).tanh()
        x = grouped_linear(x, self.weight2, self.bias2).tanh()
        out = []
        for part, (width, _), weight, bias in zip(
            x.split([n for _, n in self.runs]), self.runs, self.weights3, self.biases3, strict=True
        ):
            y = F.glu(grouped_linear(part, weight, bias), -1)
            # Channels are source-slowest, then re/im, then bin; [.., sources, frames, bands, width, re/im] here.
            y = y.view(-1, batch, frames, self.sources, 2, width).permute(1, 3, 2, 0, 5, 4)
            out.append(y.flatten(3, 4))
        return as_complex(torch.cat(out, 3))
