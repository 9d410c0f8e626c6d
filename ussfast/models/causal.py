"""Causal TF-Locoformer blocks: frames see the past through a sliding window, and a prefix of prompt rows for ever.

The rows of the prefix never see frames: what they do to a block is computed once (`CausalBlock.condition`) and serves
every stream and file with the same prompts. Activations are channels-last: [batch, frames, bands, channels].
Source: Saijo et al., "TF-Locoformer", IWAENC 2024 (blocks); Xiao et al., "Efficient Streaming Language Models with
Attention Sinks", ICLR 2024 (a prefix that stays in the window).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.models.config import StackConfig
from ussfast.models.locoformer import Attention, ConvSwiGlu, Layer, RmsGroupNorm, rope_frequencies
from ussfast.ops.locoformer_attention import locoformer_attention, mix
from ussfast.ops.locoformer_ffn import locoformer_ffn


@dataclass(frozen=True)
class Prefix:
    """What one block needs of the prompts.

    rows: [batch, prompts, bands, channels], input of the attention along time.
    keys, values: [batch, prompts, bands, width], its projections.
    """

    rows: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class FfnState:
    """The last kernel - 1 normalised inputs [batch, kernel - 1, bands, channels] and hidden rows [..., hidden]."""

    inputs: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class BlockState:
    """keys, values: [batch, window - 1, bands, width], oldest first; ffns: of the time path, in order."""

    keys: Tensor
    values: Tensor
    ffns: tuple[FfnState, ...]


class CausalBlock(nn.Module):
    """Free along frequency, causal along time; window in frames.

    causal: False lets frames see the future as well, to measure what causality costs; such a block cannot advance.
    """

    def __init__(self, config: StackConfig, window: int, causal: bool = True):
        super().__init__()
        self.window, self.causal = window, causal
        self.freq = Layer(config, config.freq_ffn)
        self.time = Layer(config, config.time_ffn)

    def condition(self, rows: Tensor, rope: Tensor) -> tuple[Tensor, Prefix]:
        """Prompt rows behind this block, and what its frames need of them."""
        x = self.freq(rows, rope, 2)
        if self.time.ffn_before is not None:
            x = _alone(self.time.ffn_before, x)
        keys, values = _project(self.time.attention, x)[1:]
        behind = _attend(self.time.attention, x, causal=False, window=0, prefix=0)
        return _alone(self.time.ffn_after, behind), Prefix(x, keys, values)

    def forward(self, x: Tensor, prefix: Tensor, rope: Tensor) -> Tensor:
        """All frames of a recording at once; prefix: `Prefix.rows` of the same batch."""
        x = self.freq(x, rope, 2)
        if self.time.ffn_before is not None:
            x = _convolve(self.time.ffn_before, x, self.causal)
        count = prefix.shape[1]
        x = _attend(self.time.attention, torch.cat((prefix, x), 1), self.causal, self.window, count)[:, count:]
        return _convolve(self.time.ffn_after, x, self.causal)

    def initial_state(self, batch: int, bands: int) -> BlockState:
        parameter = self.time.attention.qkv.weight
        width = parameter.shape[0] // 3
        kept = parameter.new_zeros(batch, self.window - 1, bands, width)
        ffns = [ffn for ffn in (self.time.ffn_before, self.time.ffn_after) if ffn is not None]
        return BlockState(kept, kept.clone(), tuple(_initial_ffn(ffn, batch, bands) for ffn in ffns))

    def advance(
        self, x: Tensor, prefix: Prefix, rope: Tensor, state: BlockState, seen: Tensor
    ) -> tuple[Tensor, BlockState]:
        """Frames that follow those in the state; seen: [batch] how many frames came before, at most window - 1."""
        x = self.freq(x, rope, 2)
        ffns: list[FfnState] = []
        if self.time.ffn_before is not None:
            x, after = _advance_ffn(self.time.ffn_before, x, state.ffns[0])
            ffns.append(after)
        x, keys, values = _advance_attention(self.time.attention, x, prefix, state, seen, self.window)
        x, after = _advance_ffn(self.time.ffn_after, x, state.ffns[-1])
        return x, BlockState(keys, values, (*ffns, after))


def _alone(ffn: ConvSwiGlu, rows: Tensor) -> Tensor:
    """Each prompt row as a sequence of its own: no order among prompts."""
    return _convolve(ffn, rows.flatten(0, 1)[:, None], True).view(rows.shape)


def _norm(module: ConvSwiGlu | Attention) -> RmsGroupNorm:
    """Configurations of causal models allow no other norm."""
    assert isinstance(module.norm, RmsGroupNorm)
    return module.norm


def _convolve(ffn: ConvSwiGlu, x: Tensor, causal: bool) -> Tensor:
    return locoformer_ffn(
        x, *ffn.weights_and_packed(),
        axis=1, groups=_norm(ffn).groups, eps=_norm(ffn).eps, causal=causal, precision=ffn.precision,
    )  # fmt: skip


def _attend(attention: Attention, x: Tensor, causal: bool, window: int, prefix: int) -> Tensor:
    norm, qkv, out, packed = attention.weights_and_packed()
    return locoformer_attention(
        x, norm, qkv, out, None, packed,
        axis=1, groups=_norm(attention).groups, heads=attention.heads, eps=_norm(attention).eps,
        causal=causal, window=window, prefix=prefix, precision=attention.precision,
    )  # fmt: skip


def _project(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [batch, frames, bands, width]."""
    q, k, v = attention.qkv(attention.norm(x)).chunk(3, -1)
    return q, k, v


def _initial_ffn(ffn: ConvSwiGlu, batch: int, bands: int) -> FfnState:
    hidden, channels, kernel = ffn.deconv_weight.shape
    shape = (batch, kernel - 1, bands)
    return FfnState(ffn.deconv_weight.new_zeros(*shape, channels), ffn.deconv_weight.new_zeros(*shape, hidden))


def _advance_ffn(ffn: ConvSwiGlu, x: Tensor, state: FfnState) -> tuple[Tensor, FfnState]:
    """`locoformer_ffn(causal=True)` for frames that follow others."""
    kernel, frames = ffn.ffn.kernel, x.shape[1]
    inputs = torch.cat((state.inputs, ffn.norm(x)), 1)
    taps = torch.cat([inputs[:, j : j + frames] for j in range(kernel)], -1)
    value, gate = F.linear(taps, ffn.conv_weight.transpose(1, 2).flatten(1), ffn.conv_bias).chunk(2, -1)
    hidden = torch.cat((state.hidden, value * F.silu(gate)), 1)
    # Tap j of the transposed convolution reaches j frames ahead: each frame gathers from the last `kernel` ones.
    late = torch.cat([hidden[:, kernel - 1 - j : kernel - 1 - j + frames] for j in range(kernel)], -1)
    y = F.linear(late, ffn.deconv_weight.permute(1, 2, 0).flatten(1), ffn.deconv_bias)
    return x + y, FfnState(inputs[:, frames:], hidden[:, frames:])


def _advance_attention(
    attention: Attention, x: Tensor, prefix: Prefix, state: BlockState, seen: Tensor, window: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The attention for frames that follow others, with the keys and values to keep."""
    batch, frames, bands, _ = x.shape
    q, k, v = _project(attention, x)
    keys, values = torch.cat((state.keys, k), 1), torch.cat((state.values, v), 1)
    count = prefix.keys.shape[1]
    fixed = (batch, count, bands, -1)

    def heads(t: Tensor) -> Tensor:  # [batch, bands, heads, length, head width]
        return t.unflatten(-1, (attention.heads, -1)).permute(0, 2, 3, 1, 4)

    at = torch.arange(keys.shape[1], device=x.device) - (window - 1)  # 0 is the first new frame
    now = torch.arange(frames, device=x.device)[:, None]
    recent = (at <= now) & (now - at < window)
    known = at >= -seen[:, None]  # what is older than the stream was never there
    visible = F.pad(recent & known[:, None], (count, 0), value=True)[:, None, None]
    mixed = mix(
        heads(q), heads(torch.cat((prefix.keys.expand(fixed), keys), 1)),
        heads(torch.cat((prefix.values.expand(fixed), values), 1)), visible,
    )  # fmt: skip
    y = F.linear(mixed.permute(0, 3, 1, 2, 4).flatten(3), attention.out.weight)
    return x + y, keys[:, frames:], values[:, frames:]


class CausalStack(nn.Module):
    """Causal blocks that share rotary frequencies along frequency; along time there are no positions to outgrow."""

    freq_rope: Tensor

    def __init__(self, config: StackConfig, window: int, causal: bool = True):
        super().__init__()
        self.blocks = nn.ModuleList(CausalBlock(config, window, causal) for _ in range(config.blocks))
        self.register_buffer("freq_rope", rope_frequencies(config.attention_dim // config.heads), persistent=False)

    def parts(self) -> list[CausalBlock]:
        return [block for block in self.blocks if isinstance(block, CausalBlock)]

    def condition(self, rows: Tensor) -> tuple[Tensor, tuple[Prefix, ...]]:
        """Prompt rows [batch, prompts, bands, channels] behind the last block, and the prefix of every block."""
        found = []
        for block in self.parts():
            rows, prefix = block.condition(rows, self.freq_rope)
            found.append(prefix)
        return rows, tuple(found)

    def forward(self, x: Tensor, prefix: tuple[Prefix, ...]) -> Tensor:
        for block, part in zip(self.blocks, prefix, strict=True):
            x = block(x, part.rows.expand(x.shape[0], -1, -1, -1), self.freq_rope)
        return x

    def advance(
        self, x: Tensor, prefix: tuple[Prefix, ...], states: tuple[BlockState, ...], seen: Tensor
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        after = []
        for block, part, state in zip(self.parts(), prefix, states, strict=True):
            x, new = block.advance(x, part, self.freq_rope, state, seen)
            after.append(new)
        return x, tuple(after)
