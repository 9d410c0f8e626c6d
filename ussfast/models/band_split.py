"""Band-split encoder and decoder: bins of a spectrum <-> one feature vector per frame and band.

Source: Luo & Yu, "Music source separation with band-split RNN", 2023; band layout of TUSS (Saijo et al., 2024).
Parameters are kept per run of bands of equal width, as checkpoints have them; the ops take them band after band.
"""

import math

import torch
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models._packed import PackedModule
from ussfast.ops import band_merge, band_split
from ussfast.ops.band_merge import pack as pack_merge
from ussfast.ops.band_split import pack as pack_split
from ussfast.ops.band_split import runs


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


class BandNorm(nn.Module):
    """Parameters of a norm with one group per band, jointly over channels and time; the ops compute it."""

    def __init__(self, bands: int, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(bands, channels))
        self.bias = nn.Parameter(torch.zeros(bands, channels))


class BandSplit(PackedModule):
    """Encoder: per band, norm over (re/im of its bins, time), then a linear map to `dim` channels."""

    def __init__(self, bands: tuple[int, ...], dim: int):
        super().__init__()
        self.bands = bands
        self.norms = nn.ModuleList(BandNorm(n, 2 * width) for width, n in runs(bands))
        self.weights = nn.ParameterList(
            torch.randn(n, dim, 2 * width) / math.sqrt(2 * width) for width, n in runs(bands)
        )
        self.biases = nn.ParameterList(torch.zeros(n, dim) for _, n in runs(bands))

    def op_weights(self) -> tuple[Tensor, ...]:
        gamma, beta = (
            torch.cat([norm.get_parameter(kind).flatten() for norm in self.norms]) for kind in ("weight", "bias")
        )
        return gamma, beta, torch.cat([weight.flatten() for weight in self.weights]), torch.cat(list(self.biases))

    def pack(self, weights: tuple[Tensor, ...]) -> Tensor:
        _, _, weight, bias = weights
        return pack_split(weight, bias, self.bands)

    def forward(self, spec: Tensor) -> Tensor:
        """[batch, frames, bins] complex -> [batch, frames, bands, dim]."""
        return band_split(torch.view_as_real(spec), *self.weights_and_packed(), bands=self.bands)


class BandMerge(PackedModule):
    """Decoder: per band, norm, two tanh layers, and a GLU to re/im of every bin and source."""

    matrices = 2, 4, 6

    def __init__(self, bands: tuple[int, ...], dim: int, sources: int, expansion: int = 4):
        super().__init__()
        self.bands, self.sources = bands, sources
        count, hidden = len(bands), expansion * dim
        self.norm = BandNorm(count, dim)
        self.weight1 = nn.Parameter(torch.randn(count, hidden, dim) / math.sqrt(dim))
        self.bias1 = nn.Parameter(torch.zeros(count, hidden))
        self.weight2 = nn.Parameter(torch.randn(count, hidden, hidden) / math.sqrt(hidden))
        self.bias2 = nn.Parameter(torch.zeros(count, hidden))
        self.weights3 = nn.ParameterList(
            torch.randn(n, 4 * width * sources, hidden) / math.sqrt(hidden) for width, n in runs(bands)
        )
        self.biases3 = nn.ParameterList(torch.zeros(n, 4 * width * sources) for width, n in runs(bands))

    def op_weights(self) -> tuple[Tensor, ...]:
        weight3, bias3 = (torch.cat([t.flatten() for t in kind]) for kind in (self.weights3, self.biases3))
        inner = self.weight1, self.bias1, self.weight2, self.bias2
        return self.norm.weight, self.norm.bias, *inner, weight3, bias3

    def pack(self, weights: tuple[Tensor, ...]) -> Tensor:
        _, _, weight1, bias1, weight2, bias2, weight3, bias3 = weights
        return pack_merge(weight1, bias1, weight2, bias2, weight3, bias3, self.bands, self.sources)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, bands, dim] -> [batch, sources, frames, bins, 2] (re, im)."""
        if self.precision == "bfloat16" and x.is_cuda and not torch.is_grad_enabled():
            x = x.to(torch.bfloat16)  # the op multiplies in the type of x; norm and sums are float32
        return band_merge(x, *self.weights_and_packed(), bands=self.bands, sources=self.sources)
