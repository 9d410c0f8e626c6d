"""TF-Locoformer blocks: attention with convolutional SwiGLU layers around it, along frequency and along time.

Source: Saijo et al., "TF-Locoformer: Transformer with local modeling by convolution for speech separation and
enhancement", IWAENC 2024. Activations are channels-last throughout: [batch, frames, bands, channels].
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models.config import FfnConfig, StackConfig
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


class ConvSwiGlu(nn.Module):
    """norm -> conv (value and gate) -> value * SiLU(gate) -> transposed conv, along the sequence axis.

    conv_weight is [2 * hidden, channels, kernel] with the value half first, deconv_weight [hidden, channels, kernel].
    """

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

    def forward(self, x: Tensor) -> Tensor:
        """[sequences, length, channels] -> the same shape, without the residual."""
        kernel, stride, length = self.ffn.kernel, self.ffn.stride, x.shape[1]
        x = self.norm(x)
        if kernel == 1:
            value, gate = F.linear(x, self.conv_weight[..., 0], self.conv_bias).chunk(2, -1)
            return F.linear(value * F.silu(gate), self.deconv_weight[..., 0].t(), self.deconv_bias)
        # Convolution as one matrix product over gathered taps: the sequence stays channels-last.
        edge = kernel - stride
        steps = -(-(length + 2 * edge - kernel) // stride) + 1
        padded = F.pad(x, (0, 0, edge, (steps - 1) * stride + kernel - edge - length))
        taps = torch.cat([padded[:, j : j + (steps - 1) * stride + 1 : stride] for j in range(kernel)], -1)
        value, gate = F.linear(taps, self.conv_weight.transpose(1, 2).flatten(1), self.conv_bias).chunk(2, -1)
        # The transposed convolution: one product into kernel * channels columns, then shifted adds.
        columns = F.linear(value * F.silu(gate), self.deconv_weight.transpose(1, 2).flatten(1).t())
        columns = columns.unflatten(-1, (kernel, -1))
        if stride == 1:
            out = columns[:, edge : edge + length, 0]
            for j in range(1, kernel):
                out = out + columns[:, edge - j : edge - j + length, j]
            return out + self.deconv_bias
        out = x.new_zeros(x.shape[0], (steps - 1) * stride + kernel, x.shape[2])
        for j in range(kernel):
            out[:, j : j + (steps - 1) * stride + 1 : stride] += columns[:, :, j]
        return out[:, edge : edge + length] + self.deconv_bias


def rope_frequencies(head_dim: int) -> Tensor:
    """[head_dim / 2] rotation frequencies, base 10000 (Su et al., "RoFormer", 2021)."""
    return 10000.0 ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)


def rope_table(frequencies: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines, [length, head_dim / 2] each, for positions 0 .. length-1."""
    angles = torch.arange(length, device=frequencies.device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def rotate(x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Rotates interleaved channel pairs of [..., length, head_dim] by the table's angles, in float32 or wider."""
    cos, sin = table
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2).to(x.dtype)


class Attention(nn.Module):
    """norm -> multi-head self-attention with rotary positions -> projection, along the sequence axis."""

    def __init__(self, config: StackConfig):
        super().__init__()
        self.heads = config.heads
        self.norm = make_norm(config)
        self.qkv = nn.Linear(config.dim, 3 * config.attention_dim, bias=False)
        self.out = nn.Linear(config.attention_dim, config.dim, bias=False)

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        """[sequences, length, channels] -> the same shape, without the residual."""
        qkv = self.qkv(self.norm(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(rotate(q, table), rotate(k, table), v)
        return self.out(mixed.transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """One path of a block: feed-forward before (optional), attention, feed-forward after; residual throughout."""

    def __init__(self, config: StackConfig, ffns: tuple[FfnConfig, ...]):
        super().__init__()
        self.ffn_before = ConvSwiGlu(config, ffns[0]) if len(ffns) == 2 else None
        self.attention = Attention(config)
        self.ffn_after = ConvSwiGlu(config, ffns[-1])

    def forward(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        if self.ffn_before is not None:
            x = x + self.ffn_before(x)
        x = x + self.attention(x, table)
        return x + self.ffn_after(x)


class Block(nn.Module):
    def __init__(self, config: StackConfig):
        super().__init__()
        self.order = config.order
        self.freq = Layer(config, config.freq_ffn)
        self.time = Layer(config, config.time_ffn)

    def along_freq(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        return self.freq(x.flatten(0, 1), table).unflatten(0, x.shape[:2])

    def along_time(self, x: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
        turned = x.transpose(1, 2)
        turned = self.time(turned.flatten(0, 1), table).unflatten(0, turned.shape[:2])
        # The next path would copy anyway; one layout between blocks also means one compiled graph for all of them.
        return turned.transpose(1, 2).contiguous()

    def forward(self, x: Tensor, freq_table: tuple[Tensor, Tensor], time_table: tuple[Tensor, Tensor]) -> Tensor:
        if self.order == "ft":
            return self.along_time(self.along_freq(x, freq_table), time_table)
        return self.along_freq(self.along_time(x, time_table), freq_table)


class Stack(nn.Module):
    """Blocks that share one set of rotary frequencies per path (stored: published checkpoints carry them)."""

    freq_rope: Tensor
    time_rope: Tensor

    def __init__(self, config: StackConfig):
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        frequencies = rope_frequencies(config.attention_dim // config.heads)
        self.register_buffer("freq_rope", frequencies)
        self.register_buffer("time_rope", frequencies.clone())

    def forward(self, x: Tensor) -> Tensor:
        """[batch, frames, bands, channels] -> the same shape."""
        time_table = rope_table(self.time_rope, x.shape[1])
        freq_table = rope_table(self.freq_rope, x.shape[2])
        for block in self.blocks:
            x = block(x, freq_table, time_table)
        return x
