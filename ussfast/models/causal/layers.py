"""Layers of the trunk and the head: residual, each with its norm; along time they carry on from a state.

Activations are channels-last: [batch, frames, bands, channels].
Sources: Shazeer, "GLU variants improve Transformer", 2020 (SwiGLU); Feng et al., "Were RNNs all we needed?", 2024 (a
recurrence whose gates see the input alone, so that all frames can be computed at once).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.ops import band_attention, conv_ffn, gated_recurrence

EPS = 1e-5
KERNEL = 3


def norm(x: Tensor, weight: Tensor) -> Tensor:
    return F.rms_norm(x, (x.shape[-1],), weight, EPS)


class FeedForward(nn.Module):
    """x + outer(value * SiLU(gate)), (value, gate) = convolution(norm(x)) over three neighbours: among the bands, or
    this frame and the two before it.

    precision: of the matrix products, see `conv_ffn`.
    """

    precision = "float32"

    def __init__(self, dim: int, hidden: int):
        super().__init__()
        self.norm = nn.Parameter(torch.ones(dim))
        # [2 * hidden, kernel * dim]: taps lead, so that gathered neighbours are one row of a matrix product.
        self.inner = nn.Parameter(torch.randn(2 * hidden, KERNEL * dim) * (3 * KERNEL * dim) ** -0.5)
        self.inner_bias = nn.Parameter(torch.zeros(2 * hidden))
        self.outer = nn.Parameter(torch.randn(dim, hidden) * (3 * hidden) ** -0.5)
        self.outer_bias = nn.Parameter(torch.zeros(dim))

    def among_bands(self, x: Tensor) -> Tensor:
        return conv_ffn(x, None, *self._weights(), axis=2, eps=EPS, precision=self.precision)

    def along_time(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """past: [batch, 2, bands, channels], the inputs before x, zeros at first; also returns the next."""
        out = conv_ffn(x, past, *self._weights(), axis=1, eps=EPS, precision=self.precision)
        return out, torch.cat((past, x[:, 1 - KERNEL :]), 1)[:, 1 - KERNEL :]

    def _weights(self) -> tuple[Tensor, ...]:
        return self.norm, self.inner, self.inner_bias, self.outer, self.outer_bias


class BandAttention(nn.Module):
    """x + self-attention among the bands of each frame.

    precision: of the matrix products, see `band_attention`.
    """

    precision = "float32"

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.Parameter(torch.ones(dim))
        self.qkv = nn.Parameter(torch.randn(3 * dim, dim) * (3 * dim) ** -0.5)
        self.out = nn.Parameter(torch.randn(dim, dim) * (3 * dim) ** -0.5)

    def forward(self, x: Tensor) -> Tensor:
        weights = self.norm, self.qkv, self.out
        return band_attention(x, *weights, heads=self.heads, eps=EPS, precision=self.precision)


class Recurrence(nn.Module):
    """x + outer(h * SiLU(gate)), h[t] = (1 - z[t]) h[t - 1] + z[t] tanh(g[t]); z, g and gate see x[t] alone.

    precision: of the matrix products, see `gated_recurrence`.
    """

    precision = "float32"

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.Parameter(torch.ones(dim))
        self.inner = nn.Parameter(torch.randn(3 * dim, dim) * (3 * dim) ** -0.5)
        # Memories from one frame to fifty.
        self.inner_bias = nn.Parameter(torch.cat((torch.linspace(-4, 0, dim), torch.zeros(2 * dim))))
        self.outer = nn.Parameter(torch.randn(dim, dim) * (3 * dim) ** -0.5)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """state: [batch, bands, channels] before x; also returns that after it."""
        weights = self.norm, self.inner, self.inner_bias, self.outer
        return gated_recurrence(x, state, *weights, eps=EPS, precision=self.precision)


BlockState = tuple[Tensor, Tensor]  # of a block's recurrence and of its feed-forward layer along time


class Block(nn.Module):
    """Among bands: attention, feed-forward; along time: recurrence, feed-forward."""

    def __init__(self, dim: int, hidden: int, heads: int):
        super().__init__()
        self.attention, self.band_ffn = BandAttention(dim, heads), FeedForward(dim, hidden)
        self.recurrence, self.time_ffn = Recurrence(dim), FeedForward(dim, hidden)

    def forward(self, x: Tensor, state: BlockState) -> tuple[Tensor, BlockState]:
        x = self.band_ffn.among_bands(self.attention(x))
        x, memory = self.recurrence(x, state[0])
        x, past = self.time_ffn.along_time(x, state[1])
        return x, (memory, past)
