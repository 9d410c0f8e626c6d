"""What the launchers of locoformer_attention share: which arguments there are kernels for, and how one is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor

from ussfast.ops._triton._call import Call, Tile
from ussfast.ops._triton._launch import capability, launch
from ussfast.ops._triton.locoformer_attention import tiles as tiles
from ussfast.ops._triton.locoformer_attention.flash import _locoformer_attention_fwd_qkv_kernel
from ussfast.ops._triton.locoformer_attention.layout import Layout, layout, rotations, weights

WIDEST_HEAD, MOST_CHANNELS = 128, 256


def takes(x: Tensor, out_weight: Tensor, groups: int, heads: int, precision: str) -> bool:
    """Whether there are kernels for such arguments."""
    if x.dtype == torch.float64 or precision == "int8" or not x.numel() or not out_weight.numel():
        return False
    padded = triton.next_power_of_2(groups) * triton.next_power_of_2(x.shape[3] // groups)
    rows = x.numel() // x.shape[3]
    return padded <= MOST_CHANNELS and out_weight.shape[1] // heads <= WIDEST_HEAD and rows < 2**30


@dataclass(frozen=True)
class Setting:
    """What all kernel calls of one launcher share."""

    x: Tensor
    lay: Layout
    qkv: Tensor
    out: Tensor
    angles: dict[str, Tensor | None]
    eps: float

    def launch(
        self,
        kernel: Any,
        arguments: dict[str, Any],
        constants: dict[str, Any],
        candidates: tuple[Tile, ...],
        programs: Callable[[Tile], int],
    ) -> None:
        """Fills in sizes and constants, of which it takes those that the kernel has."""
        more = self.lay.sizes() | self.angles | {"eps": self.eps, "heads": self.lay.heads}
        given = {k: v for k, v in (more | arguments).items() if k in kernel.arg_names}
        constants = {k: v for k, v in (self.lay.constants() | constants).items() if k in kernel.arg_names}
        launch(Call(kernel, lambda t: (programs(t),), given, constants, candidates, matrix=True), self.x.device)

    def per_head(self, *lead: int) -> Tensor:
        """[..., heads, rows, 2 * half] for factors of products."""
        shape = *lead, self.lay.heads, self.lay.rows, 2 * self.lay.half
        return torch.empty(shape, dtype=self.lay.dtype, device=self.x.device)


def setting(
    x: Tensor, norm_weight: Tensor, qkv_weight: Tensor, out_weight: Tensor, rope: Tensor | None, axis: int,
    groups: int, eps: float, heads: int, precision: str, backward: bool = False,
) -> Setting:  # fmt: skip
    x = x if x.stride(3) == 1 else x.contiguous()
    lay = layout(x, out_weight, axis, groups, heads, precision, backward)
    qkv, out = weights(lay, norm_weight, qkv_weight, out_weight)
    return Setting(x, lay, qkv, out, rotations(lay, rope), eps)


def project(now: Setting, normals: Tensor | None = None) -> Tensor:
    """Rotated queries and keys, and values, [3, heads, rows, 2 * half]; fills in normals if there are any."""
    lay, scratch = now.lay, now.per_head(3)
    arguments = {"x": now.x, "scratch": scratch, "normals": normals, "qkv": now.qkv, **lay.strides("x", now.x)}
    candidates = tiles.rows(capability(now.x), lay)
    now.launch(
        _locoformer_attention_fwd_qkv_kernel, arguments, {}, candidates, lambda t: triton.cdiv(lay.rows, t["ROWS"])
    )
    return scratch


def blocks(lay: Layout, size: str, heads: int = 1) -> Callable[[Tile], int]:
    """Number of blocks of queries or keys in all sequences."""
    return lambda t: lay.batch * lay.across * heads * triton.cdiv(lay.length, t[size])
