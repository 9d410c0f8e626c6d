"""TF-Locoformer blocks: attention with convolutional SwiGLU layers around it, along frequency and along time.

Source: Saijo et al., "TF-Locoformer: Transformer with local modeling by convolution for speech separation and
enhancement", IWAENC 2024. Activations are channels-last throughout: [batch, frames, bands, channels].
"""

from typing import Any

import torch
from torch import Tensor, nn

from ussfast.models._packed import PackedModule
from ussfast.models.config import FfnConfig, StackConfig
from ussfast.ops.locoformer_attention import attend, locoformer_attention
from ussfast.ops.locoformer_attention import pack as pack_attention
from ussfast.ops.locoformer_ffn import convolve, locoformer_ffn
from ussfast.ops.locoformer_ffn import pack as pack_ffn
from ussfast.ops.rms_group_norm import rms_group_norm


class RmsGroupNorm(nn.Module):
    """Parameters of the `rms_group_norm` op."""

    def __init__(self, dim: int, groups: int, eps: float):
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        return rms_group_norm(x, self.weight, self.groups, self.eps)


def make_norm(config: StackConfig) -> nn.Module:
    if config.norm == "layer_norm":
        return nn.LayerNorm(config.dim, eps=config.eps)
    return RmsGroupNorm(config.dim, config.groups, config.eps)


class ConvSwiGlu(PackedModule):
    """x + transposed conv(value * SiLU(gate)), (value, gate) = conv(norm(x)), along one axis.

    conv_weight is [2 * hidden, channels, kernel] with the value half first, deconv_weight [hidden, channels, kernel].
    """

    matrices = 1, 3

    def __init__(self, config: StackConfig, ffn: FfnConfig):
        super().__init__()
        self.ffn = ffn
        self.norm = make_norm(config)
        dim = config.dim
        self.conv_weight = nn.Parameter(torch.empty(2 * ffn.hidden, dim, ffn.kernel))
        self.conv_bias = nn.Parameter(torch.zeros(2 * ffn.hidden))
        self.deconv_weight = nn.Parameter(torch.empty(ffn.hidden, dim, ffn.kernel))
        self.deconv_bias = nn.Parameter(torch.zeros(dim))
        nn.init.normal_(self.conv_weight, std=(dim * ffn.kernel) ** -0.5)
        nn.init.normal_(self.deconv_weight, std=(2 * ffn.hidden * ffn.kernel) ** -0.5)

    def forward(self, x: Tensor, axis: int) -> Tensor:
        """[batch, frames, bands, channels] -> the same shape; axis 1 runs along frames, 2 along bands."""
        if isinstance(self.norm, RmsGroupNorm):
            return locoformer_ffn(
                x, *self.weights_and_packed(),
                axis=axis, groups=self.norm.groups, eps=self.norm.eps, stride=self.ffn.stride,
                precision=self.precision,
            )  # fmt: skip
        turned = x.transpose(1, 2) if axis == 1 else x
        _, w1, b1, w2, b2 = self.op_weights()
        y = convolve(self.norm(turned).flatten(0, 1), w1, b1, w2, b2, self.ffn.stride)
        return x + _turn_back(y, turned, axis)

    def op_weights(self) -> tuple[Any, ...]:
        return self.norm.weight, self.conv_weight, self.conv_bias, self.deconv_weight, self.deconv_bias

    def pack(self, weights: tuple[Any, ...]) -> Tensor | None:
        if not isinstance(self.norm, RmsGroupNorm):
            return None
        gamma, w1, b1, w2, b2 = weights
        return pack_ffn(gamma, w1, b1, w2, b2, self.norm.groups, self.precision)


def rope_frequencies(head_dim: int) -> Tensor:
    """[head_dim / 2] rotation frequencies, base 10000 (Su et al., "RoFormer", 2021)."""
    return 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


class Attention(PackedModule):
    """x + projection(multi-head self-attention(norm(x))) with rotary positions or none, along one axis."""

    matrices = 1, 2

    def __init__(self, config: StackConfig):
        super().__init__()
        self.heads = config.heads
        self.norm = make_norm(config)
        self.qkv = nn.Linear(config.dim, 3 * config.attention_dim, bias=False)
        self.out = nn.Linear(config.attention_dim, config.dim, bias=False)

    def forward(self, x: Tensor, rope: Tensor | None, axis: int) -> Tensor:
        """[batch, frames, bands, channels], rope [head_dim / 2] or None -> the same shape as x."""
        if isinstance(self.norm, RmsGroupNorm):
            norm, qkv, out, packed = self.weights_and_packed()
            return locoformer_attention(
                x, norm, qkv, out, rope, packed,
                axis=axis, groups=self.norm.groups, heads=self.heads, eps=self.norm.eps, precision=self.precision,
            )  # fmt: skip
        turned = x.transpose(1, 2) if axis == 1 else x
        y = attend(self.norm(turned).flatten(0, 1), self.qkv.weight, self.out.weight, rope, self.heads)
        return x + _turn_back(y, turned, axis)

    def op_weights(self) -> tuple[Any, ...]:
        return self.norm.weight, self.qkv.weight, self.out.weight

    def pack(self, weights: tuple[Any, ...]) -> Tensor | None:
        if not isinstance(self.norm, RmsGroupNorm):
            return None
        gamma, qkv, out = weights
        return pack_attention(gamma, qkv, out, self.heads, self.norm.groups, self.precision)


def _turn_back(rows: Tensor, turned: Tensor, axis: int) -> Tensor:
    y = rows.unflatten(0, turned.shape[:2])
    return y.transpose(1, 2) if axis == 1 else y


class Layer(nn.Module):
    """One path of a block: feed-forward before (optional), attention, feed-forward after; residual throughout."""

    def __init__(self, config: StackConfig, ffns: tuple[FfnConfig, ...]):
        super().__init__()
        self.ffn_before = ConvSwiGlu(config, ffns[0]) if len(ffns) == 2 else None
        self.attention = Attention(config)
        self.ffn_after = ConvSwiGlu(config, ffns[-1])

    def forward(self, x: Tensor, rope: Tensor | None, axis: int) -> Tensor:
        if self.ffn_before is not None:
            x = self.ffn_before(x, axis)
        return self.ffn_after(self.attention(x, rope, axis), axis)


class Block(nn.Module):
    def __init__(self, config: StackConfig):
        super().__init__()
        self.order = config.order
        self.freq = Layer(config, config.freq_ffn)
        self.time = Layer(config, config.time_ffn)

    def forward(self, x: Tensor, freq_rope: Tensor | None, time_rope: Tensor | None) -> Tensor:
        if self.order == "ft":
            return self.time(self.freq(x, freq_rope, 2), time_rope, 1)
        return self.freq(self.time(x, time_rope, 1), freq_rope, 2)


def widened(x: Tensor) -> Tensor:
    """x as the beginning of a residual stream: what autocast has made narrower is float32 again, and stays so, since
    our layers return the type of x and compute in their own precision."""
    narrow = x.dtype in (torch.bfloat16, torch.float16)
    return x.float() if narrow and torch.is_autocast_enabled(x.device.type) else x


class Stack(nn.Module):
    """Blocks that share one set of rotary frequencies per path (stored: published checkpoints carry them), or none."""

    freq_rope: Tensor | None
    time_rope: Tensor | None

    def __init__(self, config: StackConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        for name in ("freq_rope", "time_rope"):
            frequencies = rope_frequencies(config.attention_dim // config.heads) if config.rope else None
            self.register_buffer(name, frequencies)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, bands, channels] -> the same shape."""
        x = widened(x)
        for block in self.blocks:
            x = block(x, self.freq_rope, self.time_rope)
        return x
