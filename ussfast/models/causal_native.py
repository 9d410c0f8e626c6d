"""`causal_step.step` as one native call per hop, on a state that it changes in place."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast import stft
from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models.causal_step import CarriesOn, StreamState
from ussfast.models.causal_tuss import CausalTuss, Conditioning
from ussfast.models.causal_tuss_blocks import BlockState, Prefix
from ussfast.models.locoformer import Attention, ConvSwiGlu
from ussfast.models.prompt_bands import SfcBack, SfcFront
from ussfast.ops._op import uses_reference
from ussfast.ops.locoformer_attention import pack as pack_attention
from ussfast.ops.locoformer_ffn import pack as pack_ffn

LOG2E = 1.44269504088896341
SPARE_ROWS = 3  # kSpareRows of csrc/cpu/kernels/layers.h


def supported(model: CarriesOn) -> bool:
    """Whether `NativeStep` can run the model here; where it cannot, `causal_step.step` can."""
    return (
        isinstance(model, CausalTuss)
        and isinstance(model.encoder, SfcFront)
        and isinstance(model.decoder, SfcBack)
        and model.config.causal
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in model.parameters())
        and cpu_isa() is not None
        and not uses_reference()
    )


class NativeStep:
    """Hops of a batch of streams, with all memory allocated beforehand.

    Several may share a model, whose weights are packed once; no two may share a state. A model that is trained,
    converted or loaded anew needs a new NativeStep: this one keeps the weights that it began with.
    Results do not depend on the number of threads.
    """

    def __init__(self, model: CausalTuss, state: StreamState, sources: int):
        """
        Args:
            model: one that is `supported`.
            state: from `causal_step.initial_state` for as many sources, or from steps; it is in `self.state`, and from
                now on changes with every step. Only tensors that are not contiguous, as `causal_step.step` may leave
                them, are copied.
            sources: rows of the output; conditioning may have fewer prompts.
        Raises:
            InputError: the model is not supported, or the state is of another number of sources.
        """
        if not supported(model):
            raise InputError("the native step needs a causal SFC model in float32 on the CPU, and the C++ extension")
        if state.overlap.shape[1] != sources:
            raise InputError(f"a state of {sources} sources is needed, got one of {state.overlap.shape[1]}")
        self.state, self.sources = _contiguous(state), sources
        config = model.config.stft
        self._items, self._eps = len(state.frames.front.seen), model.config.stack.eps
        self._hop, self._channels = config.hop, len(state.context) // self._items
        self._weights = model.kept(lambda: packed_weights(model)).all
        self._sizes = _sizes(model)
        self._state = _state_tensors(self.state)
        # By items of a step, first that of all: every other is a part of it.
        self._rooms: dict[int, list[Tensor]] = {}
        self._asked: Conditioning | None = None
        self._conditioning: list[Tensor] = []
        self._room(self._items)

    def step(self, audio: Tensor, conditioning: Conditioning, items: Sequence[int] | None = None) -> Tensor:
        """The next hop of every stream, as `causal_step.step` gives it.

        Args:
            audio: [rows, hop] float32 at the model's rate.
            conditioning: of at most `sources` prompts; it may be another one in every call. Its tensors may be written
                to between calls if they are contiguous.
            items: only these of the state go on, each once; rows of audio are theirs, in this order.
        Returns:
            [rows, sources, hop], valid until the next call; a source that has no prompt fades out with what is left of
            one that it had.
        Raises:
            InputError (a ValueError): audio is not one hop of the items, there is no such item, or there are more
                prompts than sources.
        """
        places = list(range(self._items)) if items is None else [int(item) for item in items]
        shape = len(places) * self._channels, self._hop
        if audio.shape != shape or audio.dtype != torch.float32:
            raise InputError(
                f"a step takes float32 [rows, samples] = {list(shape)}, got {audio.dtype} {list(audio.shape)}"
            )
        if not places or min(places) < 0 or max(places) >= self._items or len(set(places)) < len(places):
            raise InputError(f"items must be some of the {self._items}, each once, got {places}")
        if conditioning is not self._asked:
            self._ask(conditioning)
        *work, out = self._room(len(places))
        with torch.inference_mode():
            torch.ops.ussfast._causal_step_.default(
                audio.contiguous(), places, self._sizes, self._eps, self._weights, self._conditioning, self._state,
                work, out,
            )  # fmt: skip
        return out

    def _room(self, items: int) -> list[Tensor]:
        """What a step of so many items writes to: work and output of `_causal_step_`."""
        if items not in self._rooms:
            hop, rows, sources = self._hop, items * self._channels, self.sources
            floats = torch.ops.ussfast._causal_step_floats(self._sizes, items, sources)
            if items < self._items:
                *whole, memory, out = self._rooms[self._items]
                self._rooms[items] = [*(tensor[:rows] for tensor in whole), memory[:floats], out[:rows]]
            else:
                self._rooms[items] = [
                    torch.zeros(rows, 2 * hop),
                    torch.zeros(rows, hop + 1, dtype=torch.complex64),
                    torch.zeros(rows, sources, hop + 1, dtype=torch.complex64),
                    torch.zeros(rows, sources, 2 * hop),
                    torch.zeros(floats),
                    torch.zeros(rows, sources, hop),
                ]
        return self._rooms[items]

    def _ask(self, conditioning: Conditioning) -> None:
        batch, prompts = conditioning.scale.shape[:2]
        if prompts > self.sources or batch not in (1, self._items):
            raise InputError(
                f"conditioning of {prompts} prompts for {batch} items does not fit {self.sources} sources of "
                f"{self._items} items"
            )
        prefix = [tensor for part in conditioning.prefix for tensor in (part.keys, part.values)]
        tensors = [conditioning.count, conditioning.scale, conditioning.shift, *prefix]
        self._conditioning = [tensor.contiguous() for tensor in tensors]
        self._asked = conditioning if all(tensor.is_contiguous() for tensor in tensors) else None


def _contiguous(state: StreamState) -> StreamState:
    frames = state.frames
    blocks = tuple(
        BlockState(
            block.keys.contiguous(),
            block.values.contiguous(),
            tuple(replace(ffn, inputs=ffn.inputs.contiguous(), hidden=ffn.hidden.contiguous()) for ffn in block.ffns),
        )
        for block in frames.blocks
    )
    encoder = tuple(tensor.contiguous() for tensor in frames.front.encoder)
    level = frames.front.level.contiguous()
    front = replace(frames.front, seen=frames.front.seen.contiguous(), level=level, encoder=encoder)
    return StreamState(
        state.context.contiguous(),
        state.waiting.contiguous(),
        state.overlap.contiguous(),
        replace(frames, front=front, blocks=blocks),
    )


def _state_tensors(state: StreamState) -> list[Tensor]:
    """In the order in which csrc/cpu/causal_step.cpp takes them."""
    front = state.frames.front
    tensors = [state.context, state.waiting, state.overlap, front.seen, front.level, *front.encoder]
    for block in state.frames.blocks:
        tensors += [block.keys, block.values]
        tensors += [tensor for ffn in block.ffns for tensor in (ffn.inputs, ffn.hidden)]
    return tensors


def _sizes(model: CausalTuss) -> list[int]:
    """`Sizes` of csrc/cpu/causal_step.h."""
    config, stack = model.config, model.config.stack
    encoder, decoder = _ends(model)
    band_ffn, first = encoder.attention.ffn, model.stack.parts()[0]
    sizes = [
        config.stft.hop, model.bands, config.sfc.dim, config.sfc.heads, encoder.input_conv.weight.shape[2],
        0 if band_ffn is None else band_ffn.outer.in_features, decoder.bin_ffn.outer.in_features,
        stack.dim, stack.groups, stack.heads, stack.attention_dim // stack.heads,
        config.window_frames, config.level_frames, config.look_ahead, stack.blocks,
    ]  # fmt: skip
    layers = first.freq.ffn_before, first.freq.ffn_after, first.time.ffn_before, first.time.ffn_after, model.extraction
    for layer in layers:
        sizes += [0, 0] if layer is None else [layer.ffn.hidden, layer.ffn.kernel]
    return sizes


def _ends(model: CausalTuss) -> tuple[SfcFront, SfcBack]:
    assert isinstance(model.encoder, SfcFront) and isinstance(model.decoder, SfcBack)
    return model.encoder, model.decoder


def condition(model: CausalTuss, prompts: Tensor) -> Conditioning:
    """`CausalTuss.condition` of a `supported` model in one native call; prompts [sources, dim], float32 on the CPU."""
    weights = model.kept(lambda: packed_weights(model))
    with torch.inference_mode():
        rows = model.prompt_rows(prompts[None])
        behind, *parts = torch.ops.ussfast._causal_condition.default(
            rows[0].contiguous(), _sizes(model), model.config.stack.eps, weights.blocks
        )
        prefix = tuple(Prefix(*parts[i : i + 3]) for i in range(0, len(parts), 3))
        return model.conditioning(behind, prefix)


@dataclass(frozen=True)
class Packed:
    """all: in the order in which csrc/cpu/causal_step.cpp takes them. blocks: those from the rotations on."""

    all: list[Tensor]
    blocks: list[Tensor]


def packed_weights(model: CausalTuss) -> Packed:
    """A causal model's weights for the native step."""
    with torch.no_grad():
        window = stft.window(model.config.stft)
        squares = window.square().view(2, -1).sum(0)
        front = [window, 1 / squares, *_front(model)]
        weights = [*front, *_blocks(model), *_back(model)]
        whole = [weight.clone(memory_format=torch.contiguous_format) for weight in weights]
        return Packed(whole, whole[len(front) :])


def _panels(weight: Tensor) -> Tensor:
    """[columns, depth] -> [panels, depth, columns of a panel], see csrc/cpu/kernels/gemm.h."""
    panel = torch.ops.ussfast._cpu_panel()
    return F.pad(weight, (0, 0, 0, -len(weight) % panel)).unflatten(0, (-1, panel)).mT.contiguous()


def _rows(weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """[rows, depth] with the bias as its last column and rows to spare."""
    whole = weight if bias is None else torch.cat((weight, bias[:, None]), 1)
    return F.pad(whole, (0, 0, 0, SPARE_ROWS))


def _front(model: CausalTuss) -> list[Tensor]:
    encoder, decoder = _ends(model)
    attention, first, last = encoder.attention, encoder.input_conv, encoder.output_conv
    query = attention.q(attention.norm_q(encoder.query)).unflatten(-1, (attention.heads, -1))
    query = query * (LOG2E * query.shape[-1] ** -0.5)
    tensors = [
        # Depth is (frame, channel, neighbour) here, and (neighbour, frame, channel) below.
        _rows(first.weight.permute(0, 2, 1, 3).flatten(1), first.bias),
        encoder.input_norm.weight, attention.norm_kv.weight, _rows(attention.kv.weight),
        torch.stack([_panels(head) for head in query.unbind(1)]),
        attention.edges, attention.slope * LOG2E, _rows(attention.out.weight),
    ]  # fmt: skip
    if attention.ffn is not None and attention.norm_ffn is not None:
        inner, outer = attention.ffn.inner, attention.ffn.outer
        tensors += [attention.norm_ffn.weight, _rows(inner.weight, inner.bias), _rows(outer.weight, outer.bias)]
    tensors += [_panels(last.weight.permute(0, 3, 2, 1).flatten(1)), last.bias, encoder.output_norm.weight]
    inner, outer = decoder.bin_ffn.inner, decoder.bin_ffn.outer
    tensors += [decoder.bin_norm.weight, _rows(inner.weight, inner.bias), _rows(outer.weight, outer.bias)]
    return tensors


def _ffn(ffn: ConvSwiGlu, groups: int) -> list[Tensor]:
    norm, conv, conv_bias, deconv, deconv_bias = ffn.op_weights()
    return [norm, pack_ffn(norm, conv, conv_bias, deconv, deconv_bias, groups, "float32")]


def _attention(attention: Attention, groups: int) -> list[Tensor]:
    norm, qkv, out = attention.op_weights()
    return [norm, pack_attention(norm, qkv, out, attention.heads, groups, "float32")]


def _step_attention(attention: Attention) -> list[Tensor]:
    norm, qkv, out = attention.op_weights()
    query, others = qkv.tensor_split([len(qkv) // 3])
    query = query * (LOG2E * (len(query) // attention.heads) ** -0.5)
    return [norm, _panels(torch.cat((query, others))), _panels(out)]


def _blocks(model: CausalTuss) -> list[Tensor]:
    groups, panel = model.config.stack.groups, torch.ops.ussfast._cpu_panel()
    # AttentionArgs::padded of csrc/cpu/kernels/table.h
    positions = -(-model.bands // panel) * panel + panel // 2
    angles = torch.outer(model.stack.freq_rope, torch.arange(positions, dtype=torch.float32))
    tensors = [angles.cos(), angles.sin()]
    for block in model.stack.parts():
        if block.freq.ffn_before is not None:
            tensors += _ffn(block.freq.ffn_before, groups)
        tensors += _attention(block.freq.attention, groups) + _ffn(block.freq.ffn_after, groups)
        if block.time.ffn_before is not None:
            tensors += _ffn(block.time.ffn_before, groups)
        tensors += _step_attention(block.time.attention) + _ffn(block.time.ffn_after, groups)
    return tensors


def _back(model: CausalTuss) -> list[Tensor]:
    _, decoder = _ends(model)
    groups = model.config.stack.groups
    norm, extraction = model.norm.weight, _ffn(model.extraction, groups)
    shares = torch.stack([_panels(head) for head in decoder.bias.softmax(-1)])
    values = _panels(decoder.value.weight), decoder.value.bias
    return [norm, *extraction, *values, shares, decoder.out.t(), decoder.out_bias]
