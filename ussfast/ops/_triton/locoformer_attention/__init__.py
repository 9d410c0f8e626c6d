"""Triton kernels of ussfast.ops.locoformer_attention: launcher, and what is compiled without a GPU."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
from torch import Tensor

from ussfast.ops._triton._call import Tile
from ussfast.ops._triton._launch import capability
from ussfast.ops._triton.locoformer_attention import tiles
from ussfast.ops._triton.locoformer_attention.calls import Setting, blocks, project, setting, takes
from ussfast.ops._triton.locoformer_attention.flash import _locoformer_attention_fwd_flash_kernel
from ussfast.ops._triton.locoformer_attention.gradient import locoformer_attention_backward
from ussfast.ops._triton.locoformer_attention.short import _locoformer_attention_fwd_short_kernel
from ussfast.ops.locoformer_attention import reference

__all__ = ["locoformer_attention", "locoformer_attention_backward", "specimens"]


def locoformer_attention(
    x: Tensor, norm_weight: Tensor, qkv_weight: Tensor, out_weight: Tensor, rope: Tensor | None,
    packed: Tensor | None, axis: int, groups: int, eps: float, heads: int, precision: str,
) -> Tensor:  # fmt: skip
    if not takes(x, out_weight, groups, heads, precision):
        return reference(
            x, norm_weight, qkv_weight, out_weight, rope, packed, axis, groups, eps, heads, precision
        ).contiguous()
    now = setting(x, norm_weight, qkv_weight, out_weight, rope, axis, groups, eps, heads, precision)
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    if now.lay.length <= tiles.longest_short(capability(x), now.lay):
        _run_short(now, y)
    else:
        _run_flash(now, y, project(now))
    return y


def _run_short(now: Setting, y: Tensor) -> None:
    lay = now.lay
    arguments = {"x": now.x, "y": y, "qkv": now.qkv, "out": now.out, **lay.strides("x", now.x), **lay.strides("y", y)}

    def programs(t: Tile) -> int:
        return triton.cdiv(lay.rows, t["ROWS"] // lay.length * lay.length)

    candidates = tiles.short(capability(now.x), lay)
    now.launch(_locoformer_attention_fwd_short_kernel, arguments, {}, candidates, programs)


def _run_flash(now: Setting, y: Tensor, scratch: Tensor) -> None:
    strides = now.lay.strides("x", now.x) | now.lay.strides("y", y)
    arguments = {"x": now.x, "y": y, "scratch": scratch, "out": now.out, **strides}
    candidates = tiles.flash(capability(now.x), now.lay)
    programs = blocks(now.lay, "ROWS")
    now.launch(_locoformer_attention_fwd_flash_kernel, arguments, {}, candidates, programs)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """TUSS medium and SFC small along bands and frames, TUSS large along bands."""

    def case(channels: int, groups: int, heads: int, head: int, axis: int, precision: str, rope: bool = True) -> tuple:
        x = torch.empty(2, 565, 62, channels, device="meta")
        norm, qkv, out = (x.new_empty(s) for s in (channels, (3 * heads * head, channels), (channels, heads * head)))
        frequencies = x.new_empty(head // 2) if rope else None
        return x, norm, qkv, out, frequencies, None, axis, groups, 1e-5, heads, precision

    def gradient(*args: Any) -> object:
        return locoformer_attention_backward(args[0], list(args), (True,) + 10 * (False,))

    def gradients(*args: Any) -> object:
        return locoformer_attention_backward(args[0], list(args), 4 * (True,) + 7 * (False,))

    yield "medium bands", locoformer_attention, case(64, 8, 4, 32, 2, "bfloat16")
    for precision in ("bfloat16", "float32"):  # along bands float32 runs the same code
        yield f"medium frames {precision}", locoformer_attention, case(64, 8, 4, 32, 1, precision)
        yield f"medium backward {precision}", gradient, case(64, 8, 4, 32, 1, precision)
    # Heads of the medium extraction, 24 wide, are padded to 32: the same code.
    yield "large bands", locoformer_attention, case(128, 8, 8, 32, 2, "bfloat16")
    yield "sfc small bands", locoformer_attention, case(96, 4, 4, 24, 2, "bfloat16", rope=False)
    small = case(96, 4, 4, 24, 1, "bfloat16", rope=False)
    yield "sfc small frames", locoformer_attention, small
    yield "sfc small backward", gradients, small
