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

from ussfast.models._packed import Preparable
from ussfast.models.config import StackConfig
from ussfast.models.locoformer import Attention, ConvSwiGlu, Layer, RmsGroupNorm, rope_frequencies, widened
from ussfast.ops.locoformer_attention import locoformer_attention
from ussfast.ops.locoformer_ffn import locoformer_ffn


@dataclass(frozen=True)
class Prefix:
    """What one block needs of the prompts.

    rows: [batch, prompts, bands, channels], input of the attention along time.
    keys: [batch, bands, width, prompts], values: [batch, bands, prompts, width], its projections.
    """

    rows: Tensor
    keys: Tensor
    values: Tensor


@dataclass(frozen=True)
class FfnState:
    """The last kernel - 1 normalised inputs [batch, bands, kernel - 1, channels] and hidden rows [..., hidden]."""

    inputs: Tensor
    hidden: Tensor


@dataclass(frozen=True)
class BlockState:
    """What a block remembers between single frames.

    keys: [batch, bands, width, window], values: [batch, bands, window, width]: rings, frame t is in slot t % window.
    Their order does not matter to attention; so laid out, what one frame reads is adjacent in memory.
    ffns: of the time path, in order.
    """

    keys: Tensor
    values: Tensor
    ffns: tuple[FfnState, ...]


Past = tuple[Tensor, ...]  # between chunks: the last inputs [batch, frames, bands, channels] of a block's time layers


class CausalBlock(Preparable):
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
        taps = self._single_taps() if torch.is_grad_enabled() else self.kept(self._single_taps)
        x = self.freq(rows, rope, 2)
        if self.time.ffn_before is not None:
            x = _alone(self.time.ffn_before, x, taps[0])
        queries, keys, values = _project(self.time.attention, x)
        prefix = Prefix(x, keys.permute(0, 2, 3, 1).contiguous(), values.transpose(1, 2).contiguous())
        x = x + self.time.attention.out(_among(queries, keys, values, self.time.attention.heads))
        return _alone(self.time.ffn_after, x, taps[-1]), prefix

    def _single_taps(self) -> list[tuple[Tensor, Tensor]]:
        """What single rows see of the time path's convolutions, feed-forward layer by layer; copied together."""
        ffns = [ffn for ffn in (self.time.ffn_before, self.time.ffn_after) if ffn is not None]
        return [(f.conv_weight[..., -1].contiguous(), f.deconv_weight[..., 0].t().contiguous()) for f in ffns]

    def forward(self, x: Tensor, prefix: Tensor, rope: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """All frames of a recording at once, or a chunk of them.

        Args:
            x: [batch, frames, bands, channels].
            prefix: `Prefix.rows` of the same batch.
            past: what came with the chunk before; None at the beginning.
        Returns:
            the same shape as x; what the next chunk needs.
        """
        x = self.freq(x, rope, 2)
        kept: list[Tensor] = []

        def after(reach: int) -> Tensor:
            """x behind its last `reach` inputs of the chunk before."""
            longer = x if past is None else torch.cat((past[len(kept)], x), 1)
            kept.append(longer[:, max(0, longer.shape[1] - reach) :])
            return longer

        frames = x.shape[1]
        if self.time.ffn_before is not None:
            x = _convolve(self.time.ffn_before, after(_reach(self.time.ffn_before)), self.causal)[:, -frames:]
        rows = torch.cat((prefix, after(self.window - 1)), 1)
        x = _attend(self.time.attention, rows, self.causal, self.window, prefix.shape[1])[:, -frames:]
        x = _convolve(self.time.ffn_after, after(_reach(self.time.ffn_after)), self.causal)[:, -frames:]
        return x, tuple(kept)

    def initial_state(self, batch: int, bands: int) -> BlockState:
        parameter = self.time.attention.qkv.weight
        width = parameter.shape[0] // 3
        ffns = [ffn for ffn in (self.time.ffn_before, self.time.ffn_after) if ffn is not None]
        return BlockState(
            parameter.new_zeros(batch, bands, width, self.window),
            parameter.new_zeros(batch, bands, self.window, width),
            tuple(_initial_ffn(ffn, batch, bands) for ffn in ffns),
        )

    def step(
        self, x: Tensor, prefix: Prefix, count: Tensor, rope: Tensor, state: BlockState, seen: Tensor
    ) -> tuple[Tensor, BlockState]:
        """One frame [batch, bands, channels]; seen: [batch] frames before it, count: [batch] prompts of the prefix."""
        x = self.freq(x[:, None], rope, 2)[:, 0]
        ffns: list[FfnState] = []
        if self.time.ffn_before is not None:
            x, after = _step_ffn(self.time.ffn_before, x, state.ffns[0])
            ffns.append(after)
        x, keys, values = _step_attention(self.time.attention, x, prefix, count, state, seen)
        x, after = _step_ffn(self.time.ffn_after, x, state.ffns[-1])
        return x, BlockState(keys, values, (*ffns, after))


def _alone(ffn: ConvSwiGlu, rows: Tensor, taps: tuple[Tensor, Tensor]) -> Tensor:
    """Each prompt row as a sequence of its own: no order among prompts, and one tap of either convolution."""
    first, last = taps
    value, gate = F.linear(ffn.norm(rows), first, ffn.conv_bias).chunk(2, -1)
    return rows + F.linear(value * F.silu(gate), last, ffn.deconv_bias)


def _among(queries: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """Attention of a few prompts among themselves, band by band; [batch, prompts, bands, width] all."""
    q, k, v = (t.unflatten(-1, (heads, -1)) for t in (queries, keys, values))
    scores = (q[:, :, None] * k[:, None]).sum(-1) * k.shape[-1] ** -0.5  # [batch, asking, asked, bands, heads]
    return (scores.softmax(2)[..., None] * v[:, None]).sum(2).flatten(-2)


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


def _reach(ffn: ConvSwiGlu) -> int:
    """Frames that a causal layer looks back: those of two convolutions."""
    return 2 * (ffn.ffn.kernel - 1)


def _project(attention: Attention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values, each [..., width]."""
    q, k, v = attention.qkv(attention.norm(x)).chunk(3, -1)
    return q, k, v


def _initial_ffn(ffn: ConvSwiGlu, batch: int, bands: int) -> FfnState:
    hidden, channels, kernel = ffn.deconv_weight.shape
    shape = (batch, bands, kernel - 1)
    return FfnState(ffn.deconv_weight.new_zeros(*shape, channels), ffn.deconv_weight.new_zeros(*shape, hidden))


def _step_ffn(ffn: ConvSwiGlu, x: Tensor, state: FfnState) -> tuple[Tensor, FfnState]:
    """`locoformer_ffn(causal=True)` for the frame [batch, bands, channels] that follows others."""
    inputs = torch.cat((state.inputs, ffn.norm(x)[:, :, None]), 2)
    value, gate = F.linear(inputs.flatten(2), ffn.conv_weight.transpose(1, 2).flatten(1), ffn.conv_bias).chunk(2, -1)
    hidden = torch.cat((state.hidden, (value * F.silu(gate))[:, :, None]), 2)
    # Tap j of the transposed convolution reaches j frames ahead: the frame gathers from the last `kernel` ones.
    y = F.linear(hidden.flip(2).flatten(2), ffn.deconv_weight.permute(1, 2, 0).flatten(1), ffn.deconv_bias)
    return x + y, FfnState(inputs[:, :, 1:], hidden[:, :, 1:])


def _step_attention(
    attention: Attention, x: Tensor, prefix: Prefix, count: Tensor, state: BlockState, seen: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The attention for one frame, with the rings that it is then in."""
    q, k, v = _project(attention, x)
    window, prompts = state.keys.shape[-1], prefix.keys.shape[-1]
    slots = torch.arange(window, device=x.device)
    here = (slots == seen[:, None] % window)[:, None]
    keys = torch.where(here[:, :, None], k[..., None], state.keys)
    values = torch.where(here[..., None], v[:, :, None], state.values)
    # Slots beyond those seen were never written; prompts beyond the count only fill up the batch.
    asked = (torch.arange(prompts, device=x.device) < count[:, None]).expand(x.shape[0], -1)
    visible = torch.cat((asked, slots <= seen[:, None]), 1)[:, None, None]
    items = (x.shape[0], -1, -1, -1)
    all_keys = torch.cat((prefix.keys.expand(items), keys), 3).unflatten(2, (attention.heads, -1))
    all_values = torch.cat((prefix.values.expand(items), values), 2).unflatten(3, (attention.heads, -1))
    scores = torch.einsum("nbhc,nbhck->nbhk", q.unflatten(-1, (attention.heads, -1)), all_keys)
    weights = (scores * all_keys.shape[3] ** -0.5).masked_fill(~visible, float("-inf")).softmax(-1)
    mixed = torch.einsum("nbhk,nbkhc->nbhc", weights, all_values)
    return x + F.linear(mixed.flatten(2), attention.out.weight), keys, values


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

    def forward(
        self, x: Tensor, prefix: tuple[Prefix, ...], past: tuple[Past, ...] | None = None
    ) -> tuple[Tensor, tuple[Past, ...]]:
        """As `CausalBlock.forward`, through all blocks."""
        kept, x = [], widened(x)
        for number, (block, part) in enumerate(zip(self.blocks, prefix, strict=True)):
            rows = part.rows.expand(x.shape[0], -1, -1, -1)
            x, after = block(x, rows, self.freq_rope, None if past is None else past[number])
            kept.append(after)
        return x, tuple(kept)

    def step(
        self, x: Tensor, prefix: tuple[Prefix, ...], count: Tensor, states: tuple[BlockState, ...], seen: Tensor
    ) -> tuple[Tensor, tuple[BlockState, ...]]:
        """As `CausalBlock.step`, through all blocks."""
        after = []
        for block, part, state in zip(self.parts(), prefix, states, strict=True):
            x, new = block.step(x, part, count, self.freq_rope, state, seen)
            after.append(new)
        return x, tuple(after)
