"""Between bins and bands frame by frame, for many prompts at once: band split, or attention with shared weights.

Sources: Saijo & Bando, "Input-Adaptive Spectral Feature Compression by Sequence Modeling for Source Separation", IEEE
TASLP 2026 (attention between bins and bands, with a bias by distance); Luo & Yu, "Music source separation with
band-split RNN", 2023 (band split). What is ours: the weights of the decoder do not depend on the frame, so that a
further prompt costs only its values; and bins keep their own features to be weighted, which a few bands cannot carry.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models.sfc import Edges, SfcConfig, SfcEncoder, SwiGlu, rms_norm
from ussfast.ops.band_split import runs
from ussfast.ops.biased_cross_attention import edge_bias


class SfcFront(SfcEncoder):
    """The SFC encoder frame after frame: what its convolutions see of the past is a state."""

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        """Zeros, as an offline convolution sees them: last inputs and last tokens before the second convolution."""
        places = (self.input_conv, self.bins), (self.output_conv, len(self.edges))
        return tuple(
            conv.weight.new_zeros(batch, conv.before, positions, conv.weight.shape[1]) for conv, positions in places
        )

    def advance(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """[batch, frames, bins, channels] -> tokens [batch, frames, bands, dim], bin tokens [batch, frames, bins,
        inner], and the new state."""
        tokens = self.tokens(x, past[0])
        bands = self.compress(tokens.flatten(0, 1)).unflatten(0, x.shape[:2])
        out = self.output_norm(self.output_conv(bands, past[1]))
        kept = tuple(torch.cat((old, new), 1)[:, new.shape[1] :] for old, new in zip(past, (x, bands), strict=True))
        return out, tokens, kept


class SplitFront(nn.Module):
    """Band split of single frames: a linear map per band from the features of its bins to one token."""

    def __init__(self, widths: tuple[int, ...], channels: int, dim: int):
        super().__init__()
        self.runs, self.channels = runs(widths), channels
        self.weights = nn.ParameterList(
            torch.randn(n, channels * w, dim) / math.sqrt(channels * w) for w, n in self.runs
        )
        self.biases = nn.Parameter(torch.zeros(len(widths), dim))
        self.norm = rms_norm(dim)

    def initial_state(self, batch: int) -> tuple[Tensor, ...]:
        return ()

    def advance(self, x: Tensor, past: tuple[Tensor, ...]) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
        """As `SfcFront.advance`; bin tokens are the input itself."""
        rows = x.flatten(2)
        parts, at = [], 0
        for (width, n), weight in zip(self.runs, self.weights, strict=True):
            size = n * width * self.channels
            parts.append(torch.einsum("btnw,nwd->btnd", rows[..., at : at + size].unflatten(-1, (n, -1)), weight))
            at += size
        return self.norm(torch.cat(parts, 2) + self.biases), x, ()


class SfcBack(nn.Module):
    """Bins gather from band tokens with learned weights, which start from the bias by distance.

    What a bin gathers for a prompt weighs the bin's own features: the mask is linear in their product. The weights do
    not depend on the frame, so that all frames and prompts are one matrix product.
    """

    def __init__(self, config: SfcConfig, edges: Edges, bins: int, dim: int):
        super().__init__()
        inner, heads = config.dim, config.heads
        self.heads = heads
        distance = edge_bias(torch.tensor(edges), bins).t()
        self.bias = nn.Parameter(distance.expand(heads, -1, -1).clone())
        self.value = nn.Linear(dim, inner)
        self.bin_norm, self.bin_ffn = rms_norm(inner), SwiGlu(inner, config.ffn * inner or inner)
        # Real and imaginary part for the bin below, the bin itself and the bin above.
        self.out = nn.Parameter(0.1 * torch.randn(inner, 6) / math.sqrt(3 * inner))
        self.out_bias = nn.Parameter(torch.tensor([0.3, 0.0]))

    def forward(self, prompted: Tensor, bin_tokens: Tensor) -> Tensor:
        """prompted [batch, sources, frames, bands, dim], bin_tokens [batch, frames, bins, inner] ->
        masks [batch, sources, frames, bins, 2]."""
        batch, sources, length = prompted.shape[:3]
        values = self.value(prompted).unflatten(-1, (self.heads, -1)).permute(4, 3, 0, 1, 2, 5)
        # Bins lead from here on, as the product leaves them: what is large is never rearranged.
        mixed = (self.bias.softmax(-1) @ values.flatten(2)).unflatten(2, values.shape[2:])
        own = bin_tokens + self.bin_ffn(self.bin_norm(bin_tokens))
        own = own.unflatten(-1, (self.heads, -1)).permute(3, 2, 0, 1, 4)[:, :, :, None]
        weighted = (mixed * own).flatten(1, 4)  # [heads, bins * batch * sources * frames, width]
        y = (weighted @ self.out.unflatten(0, (self.heads, -1))).sum(0).view(-1, batch, sources, length, 3, 2)
        below, here, above = y.unbind(-2)
        edge = torch.zeros_like(here[:1])
        masks = torch.cat((edge, below[:-1])) + here + torch.cat((above[1:], edge)) + self.out_bias
        return masks.permute(1, 2, 3, 0, 4)


class SplitBack(nn.Module):
    """Masks of single frames from band tokens: per band a tanh layer and a GLU."""

    def __init__(self, widths: tuple[int, ...], dim: int, expansion: int = 2):
        super().__init__()
        self.runs, bands, hidden = runs(widths), len(widths), expansion * dim
        self.weight1 = nn.Parameter(torch.randn(bands, dim, hidden) / math.sqrt(dim))
        self.bias1 = nn.Parameter(torch.zeros(bands, hidden))
        self.weights2 = nn.ParameterList(torch.randn(n, hidden, 4 * w) / math.sqrt(hidden) for w, n in self.runs)
        self.biases2 = nn.ParameterList(torch.zeros(n, 4 * w) for w, n in self.runs)

    def forward(self, x: Tensor, bin_tokens: Tensor) -> Tensor:
        """As `SfcBack.forward`; bin tokens are not looked at."""
        h = (torch.einsum("bstkd,kdh->bstkh", x, self.weight1) + self.bias1).tanh()
        parts, at = [], 0
        for (_, n), weight, bias in zip(self.runs, self.weights2, self.biases2, strict=True):
            y = torch.einsum("bstnh,nhw->bstnw", h[..., at : at + n, :], weight) + bias
            parts.append(F.glu(y, -1).flatten(-2))
            at += n
        return torch.cat(parts, -1).unflatten(-1, (-1, 2))
