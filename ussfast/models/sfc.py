"""Spectral feature compression: cross-attention between the bins of a spectrum and a few band tokens.

Source: Saijo & Bando, "Input-Adaptive Spectral Feature Compression by Sequence Modeling for Source Separation", IEEE
TASLP 2026 (arXiv 2602.08671), variant SFC-CA. Activations are channels-last: [batch, frames, bins or bands, channels];
each frame is one attention problem.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models._packed import PackedModule
from ussfast.models.band_split import tuss_bands
from ussfast.models.config import Bands, Heads, Width
from ussfast.models.locoformer import widened
from ussfast.ops._scan import unknown
from ussfast.ops.biased_cross_attention import biased_cross_attention
from ussfast.ops.biased_cross_attention import pack as pack_bias
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig

Edges = tuple[tuple[int, int], ...]
EPS = 1e-6


@dataclass(frozen=True)
class SfcConfig(Checked):
    """An SFC-CA encoder and decoder.

    dim, heads: inner width and attention heads of both.
    bands: "musical" (`count` overlapping bands, equally spaced in pitch), "bsroformer" (bands side by side, by the
        rule of `tuss_bands`) or "widths" (side by side, of these `widths` in bins).
    query: "learnable" (one vector per band or bin) or "adaptive" (from the frame itself).
    bias: "learned" (starts from `edge_bias`) or "stored" (not trained).
    learned_slope: whether the factors of the bias, one per head, are trained.
    mask_outside: bands see only their own bins.
    ffn: hidden width of the layer after the attention in multiples of dim; 0 leaves it out.
    """

    dim: Width
    heads: Heads
    bands: Literal["musical", "bsroformer", "widths"] = "musical"
    count: Annotated[int, Range(2, 512)] = 64
    widths: Bands | None = None
    query: Literal["learnable", "adaptive"] = "learnable"
    bias: Literal["learned", "stored"] = "learned"
    learned_slope: bool = False
    mask_outside: bool = False
    ffn: Annotated[int, Range(0, 64)] = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.bands == "widths") != (self.widths is not None):
            raise InputError("SFC widths are needed with bands 'widths', and only there")
        if self.dim % self.heads:
            raise InputError(f"SFC needs heads that divide dim, got {self.heads} and {self.dim}")


def musical_edges(n_fft: int, sample_rate: int, count: int) -> Edges:
    """Half-open ranges of bins of `count` bands that are equally spaced in pitch and overlap their neighbours."""
    half, width = n_fft // 2, sample_rate / n_fft
    low, high = (12 * math.log2(f / 440) + 69 for f in (width, sample_rate / 2))
    low = max(low, 0.0)
    ratio = half ** (1 / count)
    edges = []
    for i in range(count):
        centre = 440 * 2 ** ((low + (high - low) * i / (count - 1) - 69) / 12)
        edges.append((math.floor(centre / ratio / width), min(math.ceil(centre * ratio / width) + 1, half + 1)))
    edges[0] = (0, edges[0][1])
    edges[-1] = (edges[-1][0], half + 1)
    return tuple(edges)


def band_edges(config: SfcConfig, stft: StftConfig, sample_rate: int) -> Edges:
    """Half-open ranges of bins, one per band; InputError if they leave a bin out."""
    if config.bands == "musical":
        edges = musical_edges(stft.n_fft, sample_rate, config.count)
    else:
        widths = config.widths if config.widths is not None else tuss_bands(sample_rate, stft.bins)
        ends = [sum(widths[: i + 1]) for i in range(len(widths))]
        edges = tuple((end - width, end) for width, end in zip(widths, ends, strict=True))
    reach = 0
    for start, end in sorted(edges):
        if not 0 <= start <= reach or not start < end <= stft.bins:
            break
        reach = max(reach, end)
    if reach != stft.bins:
        raise InputError(f"SFC bands must cover the bins 0 to {stft.bins - 1} and no others, got {edges}")
    return edges


def edge_bias(edges: Tensor, bins: int) -> Tensor:
    """Minus the distance from each band to each bin: [bands, bins].

    Outside a band it counts bins to the nearest one inside; inside it grows from 0 in the middle to less than 1.
    """
    start, end = edges[:, :1], edges[:, 1:]
    at = torch.arange(bins, device=edges.device)
    outside = torch.maximum(start - at, at - (end - 1)).float()
    middle = torch.div(start + end, 2, rounding_mode="floor")
    half = torch.div(end - start, 2, rounding_mode="floor")
    inside = (middle - at).abs().float() / (half + 1).float()
    return -torch.where((at < start) | (at >= end), outside, inside)


class RmsNorm(nn.RMSNorm):
    """In the type of its weight, whatever autocast has made of the input: PyTorch has no kernel for two types."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(widened(x))


def rms_norm(dim: int) -> RmsNorm:
    return RmsNorm(dim, eps=EPS)


class Conv(nn.Module):
    """3 x 3 convolution over (frame, position), zeros around.

    weight is [out, in, 3, 3]: that of an ordinary convolution, also where a checkpoint had a transposed one.
    """

    def __init__(self, width_in: int, width_out: int):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width_out, width_in, 3, 3) / math.sqrt(9 * width_in))
        self.bias = nn.Parameter(torch.zeros(width_out))

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, positions, in] -> [..., out]."""
        # Channels-last memory is what the convolution takes anyway: nothing is copied by the permutations.
        y = F.conv2d(x.permute(0, 3, 1, 2), self.weight, self.bias, padding=1)
        return y.permute(0, 2, 3, 1)


class SwiGlu(nn.Module):
    """Linear to value and gate, value * SiLU(gate), linear back."""

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.inner = nn.Linear(dim, 2 * hidden)
        self.outer = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.inner(x).chunk(2, -1)
        return self.outer(value * F.silu(gate))


class CrossAttention(PackedModule):
    """Pre-norm biased cross-attention without a residual, then a feed-forward layer with one.

    kv_weight has all keys before all values, each head by head.
    """

    bias: Tensor
    slope: Tensor
    mask: Tensor | None

    def __init__(self, config: SfcConfig, edges: Edges, bins: int, bands_are: Literal["queries", "keys"]):
        super().__init__()
        dim, heads = config.dim, config.heads
        self.heads = heads
        self.norm_q, self.norm_kv = rms_norm(dim), rms_norm(dim)
        self.q, self.kv = nn.Linear(dim, dim, bias=False), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim, bias=False)
        self.norm_ffn = rms_norm(dim) if config.ffn else None
        self.ffn = SwiGlu(dim, config.ffn * dim) if config.ffn else None
        distance = edge_bias(torch.tensor(edges), bins)
        dense = distance if bands_are == "queries" else distance.t()
        self._keep("bias", dense.expand(heads, -1, -1).clone(), config.bias == "learned")
        self._keep("slope", torch.ones(heads), config.learned_slope)
        inside = torch.where(dense > -1, 0.0, float("-inf"))
        self.register_buffer("mask", inside.expand(heads, -1, -1).clone() if config.mask_outside else None)

    def _keep(self, name: str, value: Tensor, trained: bool) -> None:
        """As a parameter, or as a buffer of that name: counts and optimisers must not see what is not trained."""
        if trained:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    def op_weights(self) -> tuple[Any, ...]:
        """bias, slope."""
        return self.bias if self.mask is None else self.bias + self.mask, self.slope

    def pack(self, weights: tuple[Any, ...]) -> Tensor | None:
        return pack_bias(*weights)

    def forward(self, query: Tensor, tokens: Tensor) -> Tensor:
        """query [rows or 1, queries, dim], tokens [rows, keys, dim] -> [rows, queries, dim]."""
        q = self.q(self.norm_q(query)).unflatten(-1, (self.heads, -1))
        k, v = self.kv(self.norm_kv(tokens)).unflatten(-1, (2, self.heads, -1)).unbind(-3)
        x = self.out(biased_cross_attention(q, k, v, *self.weights_and_packed()))
        return x if self.ffn is None or self.norm_ffn is None else x + self.ffn(self.norm_ffn(x))


class SfcEncoder(nn.Module):
    def __init__(self, config: SfcConfig, edges: Edges, bins: int, channels: int, dim: int):
        """channels: of the input; dim: width of the band tokens."""
        super().__init__()
        self.input_conv = Conv(channels, config.dim)
        self.input_norm = rms_norm(config.dim)
        self.attention = CrossAttention(config, edges, bins, "queries")
        self.output_conv = Conv(config.dim, dim)
        self.output_norm = rms_norm(dim)
        self.edges = edges
        if config.query == "learnable":
            self.query = nn.Parameter(torch.randn(len(edges), config.dim))
        else:
            widths = [end - start for start, end in edges]
            self.bin_weights = nn.Parameter(torch.cat([torch.full((w,), 1 / w) for w in widths]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[batch, frames, bins, channels] -> band tokens [batch, frames, bands, dim], bin tokens [rows, bins, dim]."""
        tokens = self.input_norm(self.input_conv(x)).flatten(0, 1)
        query = self.query[None] if hasattr(self, "query") else self._means(tokens)
        bands = self.attention(query, tokens).unflatten(0, x.shape[:2])
        return self.output_norm(self.output_conv(bands)), tokens

    def _means(self, tokens: Tensor) -> Tensor:
        """Weighted mean of each band's tokens, as one sparse matrix made dense: bands are few."""
        matrix = tokens.new_zeros(len(self.edges), tokens.shape[1])
        at = 0
        rows = []
        for start, end in self.edges:
            weights = self.bin_weights[at : at + end - start]
            rows.append(F.pad(weights / weights.sum().clamp(min=1e-8), (start, matrix.shape[1] - end)))
            at += end - start
        return torch.stack(rows).to(tokens.dtype) @ tokens


class SfcDecoder(nn.Module):
    def __init__(self, config: SfcConfig, edges: Edges, bins: int, channels: int, dim: int):
        """channels: of the output; dim: width of the band tokens."""
        super().__init__()
        self.input_conv = Conv(dim, config.dim)
        self.attention = CrossAttention(config, edges, bins, "keys")
        self.output_conv = Conv(config.dim, channels)
        self.query: Tensor | None = None
        if config.query == "learnable":
            self.query = nn.Parameter(torch.randn(bins, config.dim))
        else:
            self.query_norm, self.query_mlp = rms_norm(config.dim), SwiGlu(config.dim, 2 * config.dim)

    def forward(self, x: Tensor, bin_tokens: Tensor | None = None) -> Tensor:
        """[batch, frames, bands, dim] -> [batch, frames, bins, channels]; bin_tokens: from the encoder, if adaptive.

        The batch may hold several sources of each item that the encoder saw, one after the other.
        """
        tokens = self.input_conv(x).flatten(0, 1)
        queries = self.queries(bin_tokens)
        if self.query is None and (unknown(tokens.shape[0]) or queries.shape[0] != tokens.shape[0]):
            items = queries.unflatten(0, (-1, x.shape[1]))
            each = items[:, None].expand(-1, x.shape[0] // items.shape[0], -1, -1, -1)
            queries = each.flatten(0, 2)
        bins = self.attention(queries, tokens)
        return self.output_conv(bins.unflatten(0, x.shape[:2]))

    def queries(self, bin_tokens: Tensor | None) -> Tensor:
        if self.query is not None:
            return self.query[None]
        if bin_tokens is None:
            raise InputError("a decoder with adaptive queries needs the encoder's bin tokens")
        return self.query_mlp(self.query_norm(bin_tokens))
