"""`hop.step` of a `CausalModel` as one native call per hop, on a state that it changes in place."""

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast import stft
from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models.causal.hop import StreamState
from ussfast.models.causal.layers import Block, FeedForward
from ussfast.models.causal.model import CausalModel, Modulation
from ussfast.ops._op import uses_reference

LOG2E = 1.44269504088896341
CACHE_LINE = 64
PRECISIONS = ("float32", "bfloat16")


def supported(model: CausalModel) -> bool:
    """Whether `TrunkStep` can run the model here; where it cannot, `causal_step.step` can."""
    weights = list(model.parameters())  # of an exported model there are none here
    return (
        bool(weights)
        and all(p.dtype == torch.float32 and p.device.type == "cpu" for p in weights)
        and cpu_isa() is not None
        and not uses_reference()
    )


def fastest(model: CausalModel, precision: str) -> str:
    """The precision of steps for one of the engine's: bfloat16 only where the CPU has instructions for it; elsewhere
    float32 is both faster and closer."""
    return "bfloat16" if precision == "bfloat16" and cpu_isa() == "avx512_bf16" and _even(model) else "float32"


def _even(model: CausalModel) -> bool:
    """Whether rows of activations are whole pairs, as products of bfloat16 take them."""
    return model.config.dim % 2 == 0


class TrunkStep:
    """Hops of a batch of streams, with all memory allocated beforehand.

    Several may share a model, whose weights are packed once; no two may share a state. A model that is trained,
    converted or loaded anew needs a new TrunkStep: this one keeps the weights that it began with.
    Results do not depend on the number of threads.
    """

    def __init__(self, model: CausalModel, state: StreamState, sources: int, precision: str = "float32"):
        """
        Args:
            model: one that is `supported`.
            state: from `causal_step.initial_state` for as many sources, or from steps; it is in `self.state`, and from
                now on changes with every step. Only tensors that are not contiguous, as `causal_step.step` may leave
                them, are copied.
            sources: rows of the output; a modulation may have fewer prompts.
            precision: of matrix products: float32 or bfloat16; sums and what is remembered are float32.
        Raises:
            InputError: the model is not supported, there is no such precision, or the state is of another number of
                sources.
        """
        if not supported(model):
            raise InputError("the native step needs a CausalModel in float32 on the CPU, and the C++ extension")
        if precision not in PRECISIONS or (precision == "bfloat16" and not _even(model)):
            raise InputError(f"precision must be one of {PRECISIONS}, bfloat16 for an even dim, got {precision!r}")
        if state.overlap.shape[1] != sources:
            raise InputError(f"a state of {sources} sources is needed, got one of {state.overlap.shape[1]}")
        self.state, self.sources, self.precision = _contiguous(state), sources, precision
        self._items = state.frames.items
        self._hop, self._channels = model.config.stft.hop, len(state.context) // self._items
        kept: dict[str, Tensor] = model.kept(dict)
        if precision not in kept:
            kept[precision] = packed_weights(model, precision)
        self._weights, self._sizes = kept[precision], _sizes(model)
        self._state = _state_tensors(self.state)
        # By items of a step, first that of all: every other is a part of it.
        self._rooms: dict[int, list[Tensor]] = {}
        self._asked: Modulation | None = None
        self._modulation: list[Tensor] = []
        self._room(self._items)

    def step(self, audio: Tensor, modulation: Modulation, items: Sequence[int] | None = None) -> Tensor:
        """The next hop of every stream, as `causal_step.step` gives it.

        Args:
            audio: [rows, hop] float32 at the model's rate.
            modulation: of at most `sources` prompts; it may be another one in every call. Its tensors may be written to
                between calls if they are contiguous.
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
        if modulation is not self._asked:
            self._ask(modulation)
        *work, out = self._room(len(places))
        with torch.inference_mode():
            torch.ops.ussfast._trunk_step_.default(
                audio.contiguous(), places, self._sizes, self.precision, self._weights, self._modulation, self._state,
                work, out,
            )  # fmt: skip
        return out

    def _room(self, items: int) -> list[Tensor]:
        """What a step of so many items writes to: work and output of `_trunk_step_`."""
        if items not in self._rooms:
            hop, rows, pairs = self._hop, items * self._channels, items * self._channels * self.sources
            floats = torch.ops.ussfast._trunk_step_floats(self._sizes, items, self.sources)
            if items < self._items:
                sizes = rows, rows, pairs, pairs, floats, rows
                whole = self._rooms[self._items]
                self._rooms[items] = [tensor[:size] for tensor, size in zip(whole, sizes, strict=True)]
            else:
                self._rooms[items] = [
                    torch.zeros(rows, 2 * hop),
                    torch.zeros(rows, hop + 1, dtype=torch.complex64),
                    torch.zeros(pairs, hop + 1, dtype=torch.complex64),
                    torch.zeros(pairs, 2 * hop),
                    torch.zeros(floats),
                    torch.zeros(rows, self.sources, hop),
                ]
        return self._rooms[items]

    def _ask(self, modulation: Modulation) -> None:
        batch, prompts = modulation.scale.shape[:2]
        if prompts > self.sources or batch not in (1, self._items):
            raise InputError(
                f"a modulation of {prompts} prompts for {batch} items does not fit {self.sources} sources of "
                f"{self._items} items"
            )
        tensors = [modulation.count, modulation.scale, modulation.shift]
        self._modulation = [tensor.contiguous() for tensor in tensors]
        self._asked = modulation if all(tensor.is_contiguous() for tensor in tensors) else None


def _contiguous(state: StreamState) -> StreamState:
    frames = state.frames
    blocks = tuple((memory.contiguous(), past.contiguous()) for memory, past in frames.blocks)
    return StreamState(
        state.context.contiguous(),
        state.overlap.contiguous(),
        replace(frames, level=frames.level.contiguous(), features=frames.features.contiguous(), blocks=blocks),
    )


def _state_tensors(state: StreamState) -> list[Tensor]:
    """In the order in which csrc/cpu/trunk_step.cpp takes them."""
    frames = state.frames
    blocks = [tensor for block in frames.blocks for tensor in block]
    return [state.context, state.overlap, frames.level, frames.features, *blocks]


def _sizes(model: CausalModel) -> list[int]:
    """`TrunkSizes` of csrc/cpu/trunk_step.cpp."""
    c = model.config
    return [c.stft.hop, c.dim, c.hidden, c.heads, c.features, c.blocks, *c.bands]


class _Packing:
    """Weights as csrc/cpu/kernels/trunk.h describes them."""

    def __init__(self, precision: str):
        self.precision = precision
        self.panel: int = torch.ops.ussfast._cpu_panel()
        self.lanes = self.panel // 2

    def panels(self, weight: Tensor) -> Tensor:
        """[columns, depth] -> bytes of [panels, depth, columns of a panel], see csrc/cpu/kernels/gemm.h."""
        group = 2 if self.precision == "bfloat16" else 1
        columns, depth = weight.shape
        padded = F.pad(weight, (0, -depth % group, 0, -columns % self.panel))
        parts = padded.unflatten(0, (-1, self.panel)).unflatten(-1, (-1, group)).transpose(1, 2)
        return parts.to(torch.bfloat16 if group == 2 else torch.float32).flatten().view(torch.uint8)

    def row(self, weight: Tensor, spare: int = 0) -> Tensor:
        """A norm's weights or biases, padded to whole panels."""
        return F.pad(weight.flatten(), (0, -weight.numel() % self.panel + spare))

    def gated(self, weight: Tensor) -> Tensor:
        """[2 * hidden, ...], values and then gates -> both in turn by as many as a vector has lanes, and padded."""
        parts = weight.unflatten(0, (2, -1))
        more = -parts.shape[1] % self.lanes
        padded = torch.cat((parts, parts.new_zeros(2, more, *parts.shape[2:])), 1)
        return padded.unflatten(1, (-1, self.lanes)).transpose(0, 1).flatten(0, 2)

    def narrow(self, weight: Tensor) -> Tensor:
        """[columns, hidden], of as many hidden units as `gated` makes."""
        return F.pad(weight, (0, -weight.shape[1] % self.lanes))

    def feed_forward(self, layer: FeedForward) -> list[Tensor]:
        inner, bias = self.gated(layer.inner), self.gated(layer.inner_bias)
        outer = self.panels(self.narrow(layer.outer))
        return [self.row(layer.norm), self.panels(inner), bias, outer, self.row(layer.outer_bias)]

    def block(self, block: nn.Module) -> list[Tensor]:
        assert isinstance(block, Block)
        attention, recurrence = block.attention, block.recurrence
        query, others = attention.qkv.tensor_split([len(attention.out)])
        query = query * (LOG2E * (len(query) // attention.heads) ** -0.5)
        return [
            self.row(attention.norm), self.panels(torch.cat((query, others))), self.panels(attention.out),
            *self.feed_forward(block.band_ffn),
            self.row(recurrence.norm), self.panels(recurrence.inner), self.row(recurrence.inner_bias, self.panel),
            self.panels(recurrence.outer),
            *self.feed_forward(block.time_ffn),
        ]  # fmt: skip

    def encoder(self, model: CausalModel) -> Tensor:
        return torch.cat([self.panels(band.mT) for run in model.encoder.weights for band in run])

    def decoder(self, model: CausalModel) -> list[Tensor]:
        decoder = model.decoder
        inner = torch.cat([self.panels(self.gated(band.mT)) for band in decoder.inner])
        own = [band.unflatten(-1, (-1, 2)).mT.flatten(1) for run in decoder.outer for band in run]
        outer = [torch.cat((a, b), 1) for a, b in zip(own, decoder.weigh, strict=True)]
        bias = torch.cat([run.flatten().unflatten(0, (-1, 2)) for run in decoder.biases])
        masks = F.pad(bias.mT, (0, -len(bias) % self.panel)).flatten()
        packed = torch.cat([self.panels(self.narrow(band.mT)) for band in outer])
        return [self.row(decoder.norm), inner, packed, F.pad(masks, (0, self.panel))]


def packed_weights(model: CausalModel, precision: str) -> Tensor:
    """A model's weights for the native step as bytes: in the order in which csrc/cpu/trunk_step.cpp takes them, each at
    a cache line."""
    pack = _Packing(precision)
    with torch.no_grad():
        window = stft.window(model.config.stft)
        squares = window.square().view(2, -1).sum(0)
        # [features, channels, frames, neighbours] -> [features, neighbours, frames, channels]
        conv = model.features.weight.transpose(1, 3)
        weights = [
            window, 1 / squares, torch.tensor([model.config.release]), conv, model.features.bias,
            pack.encoder(model), model.band_rows, *(tensor for block in model.blocks for tensor in pack.block(block)),
            pack.row(model.trunk_norm), *pack.feed_forward(model.head), *pack.decoder(model),
        ]  # fmt: skip
        parts = [weight.flatten().view(torch.uint8) for weight in weights]
        return torch.cat([F.pad(part, (0, -len(part) % CACHE_LINE)) for part in parts])
