"""What the Triton launchers of locoformer_attention prepare: padded sizes, weights in the kernels' order, strides."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._launch import dot_types
from ussfast.ops._triton._layouts import laid_out

_TORCH = {tl.bfloat16: torch.bfloat16, tl.float16: torch.float16, tl.float32: torch.float32}
# Narrower operands than this do not fit the matrix units.
_LEAST = 16
# Scores become powers of two, which are one instruction.
LOG2E = math.log2(math.e)


@dataclass(frozen=True)
class Layout:
    """Sizes of one call, padded ones too, and where its rows lie."""

    batch: int
    length: int
    across: int
    channels: int
    groups: int
    heads: int
    head: int
    axis: int
    dot: Any
    precision: str

    @property
    def rows(self) -> int:
        return self.batch * self.across * self.length

    @property
    def half(self) -> int:
        """Of a head, padded."""
        return max(_LEAST, triton.next_power_of_2((self.head + 1) // 2))

    @property
    def padded_group(self) -> int:
        return triton.next_power_of_2(self.channels // self.groups)

    @property
    def padded_groups(self) -> int:
        return max(triton.next_power_of_2(self.groups), _LEAST // self.padded_group)

    @property
    def padded_channels(self) -> int:
        return self.padded_group * self.padded_groups

    @property
    def dtype(self) -> torch.dtype:
        """Of the factors of products."""
        return _TORCH[self.dot]

    def constants(self) -> dict[str, Any]:
        """Those that every kernel takes."""
        return {
            "WIDTH": self.channels // self.groups,
            "COUNT": self.groups,
            "GROUP": self.padded_group,
            "GROUPS": self.padded_groups,
            "HALF": self.half,
            "DOT": self.dot,
            "PREC": self.precision,
        }

    def sizes(self) -> dict[str, int]:
        return {"rows": self.rows, "length": self.length, "across": self.across}

    def strides(self, name: str, tensor: Tensor) -> dict[str, int]:
        """Of a [batch, frames, bands, channels] tensor: from batch to batch, across sequences and along them."""
        outer, *inner = tensor.stride()[:3]
        along, middle = inner if self.axis == 1 else reversed(inner)
        return {f"{name}_outer": outer, f"{name}_middle": middle, f"{name}_along": along}

    def pad_channels(self, weight: Tensor) -> Tensor:
        """[..., channels] with a gap of zeros after each group and after all groups."""
        grouped = weight.unflatten(-1, (self.groups, -1))
        more = self.padded_groups - self.groups, self.padded_group - grouped.shape[-1]
        return torch.nn.functional.pad(grouped, (0, more[1], 0, more[0])).flatten(-2)

    def unpad_channels(self, weight: Tensor) -> Tensor:
        grouped = weight.unflatten(-1, (self.padded_groups, self.padded_group))
        return grouped[..., : self.groups, : self.channels // self.groups].flatten(-2)


def layout(
    x: Tensor, out_weight: Tensor, axis: int, groups: int, heads: int, precision: str, backward: bool
) -> Layout:  # fmt: skip
    """Where factors would be bfloat16 they are float16 in the forward pass: the norm keeps all of them in its range, it
    costs the same, and its three bits more count where scores are large. Gradients know no such bounds.
    """
    dot, input_precision = dot_types(x.dtype, precision)
    if dot == tl.bfloat16 and not backward:
        dot = tl.float16
    length, across = (x.shape[1], x.shape[2]) if axis == 1 else (x.shape[2], x.shape[1])
    head = out_weight.shape[1] // heads
    return Layout(x.shape[0], length, across, x.shape[3], groups, heads, head, axis, dot, input_precision)


def factors(lay: Layout, norm: Tensor) -> Tensor:
    """[3, 1, 1, channels]: what the laid out projection is multiplied with, the norm's weight and queries' scale."""
    scale = norm.new_ones((3, 1, 1, 1), dtype=torch.float32)
    scale[0] = lay.head**-0.5 * LOG2E
    return scale * norm.float()


def weights(lay: Layout, norm: Tensor, qkv: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
    """Projection [heads, 6 * padded channels * half]: matrices [channels, half] for even and odd members of queries
    and of keys, then [channels, 2 * half] for values; and the projection back [heads, 2 * half, padded channels].
    """

    def make() -> tuple[Tensor, Tensor]:
        parts = qkv.float().unflatten(0, (3, lay.heads, lay.head)) * factors(lay, norm)
        parts = lay.pad_channels(parts).transpose(-1, -2)
        pairs = torch.cat([_pad(parts[:2, ..., start::2], lay.half).flatten(-2) for start in (0, 1)], -1)
        values = _pad(parts[2], 2 * lay.half).flatten(-2)
        back = lay.pad_channels(out.float().t().unflatten(0, (lay.heads, lay.head)))
        back = _pad(back.transpose(-1, -2), 2 * lay.half).transpose(-1, -2)
        first = torch.cat((pairs[0], pairs[1], values), -1)
        return first.to(lay.dtype).contiguous(), back.to(lay.dtype).contiguous()

    # Everything but the weights that the result depends on.
    extra = ("locoformer_attention", lay.groups, lay.heads, lay.dtype)
    return laid_out((norm, qkv, out), make, extra)


def _pad(matrix: Tensor, width: int) -> Tensor:
    return torch.nn.functional.pad(matrix, (0, width - matrix.shape[-1]))


def rotations(lay: Layout, rope: Tensor | None) -> dict[str, Tensor | None]:
    """Cosine and sine of every position's angles, [positions, half]: exact for any position, and read from cache."""
    if rope is None:
        return {"cos": None, "sin": None}
    # A power of two of them, so that sequences of many lengths share a table.
    positions = triton.next_power_of_2(max(lay.length, 64))

    def make() -> tuple[Tensor, Tensor]:
        position = torch.arange(positions, device=rope.device, dtype=torch.float32)
        angles = position[:, None] * _pad(rope.float(), lay.half)
        return angles.cos(), angles.sin()

    cos, sin = laid_out((rope,), make, ("locoformer_attention", positions, lay.half))
    return {"cos": cos, "sin": sin}


def weight_gradients(
    lay: Layout, gradients: Tensor, normals: Tensor, norm: Tensor, qkv: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of the norm's weight and of the projection, from those of queries, keys and values."""
    found = lay.unpad_channels((gradients.transpose(-1, -2) @ normals).float())
    folded = found.new_empty((3, lay.heads, lay.head, lay.channels))
    for start in (0, 1):
        pairs = folded[:2, :, start::2]
        pairs.copy_(found[:2, :, start * lay.half :][:, :, : pairs.shape[2]])
    folded[2] = found[2, :, : lay.head]
    plain = qkv.float().unflatten(0, (3, lay.heads, lay.head))
    of_norm = (folded * plain * factors(lay, torch.ones_like(norm))).sum((0, 1, 2))
    of_qkv = (folded * factors(lay, norm)).flatten(0, 2)
    return of_norm.to(norm.dtype), of_qkv.to(qkv.dtype)
