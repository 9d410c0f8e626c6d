"""Backward launcher of locoformer_attention."""

from typing import Any

import torch
import triton
from torch import Tensor

from ussfast.ops._triton._launch import capability
from ussfast.ops._triton.locoformer_attention import tiles as tiles
from ussfast.ops._triton.locoformer_attention.backward import (
    _locoformer_attention_bwd_input_kernel,
    _locoformer_attention_bwd_keys_kernel,
    _locoformer_attention_bwd_mixed_kernel,
    _locoformer_attention_bwd_queries_kernel,
)
from ussfast.ops._triton.locoformer_attention.calls import Setting, blocks, project, setting, takes
from ussfast.ops._triton.locoformer_attention.layout import weight_gradients


def locoformer_attention_backward(
    grad: Tensor, args: list[Any], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    x, norm_weight, qkv_weight, out_weight, rope, _, axis, groups, eps, heads, precision = args
    if not takes(x, out_weight, groups, heads, precision) or need[4]:  # nobody trains rotation frequencies
        return None
    now = setting(x, norm_weight, qkv_weight, out_weight, rope, axis, groups, eps, heads, precision, backward=True)
    grad = grad if grad.stride(3) == 1 else grad.contiguous()
    lay, of_weights = now.lay, need[1] or need[2]
    normals = now.x.new_empty((lay.rows, lay.padded_channels), dtype=lay.dtype) if of_weights else None
    scratch, gradients = project(now, normals), now.per_head(3)
    mixed, d_mixed = now.per_head() if need[3] else None, now.per_head()
    spread, delta = torch.empty((2, lay.heads, lay.rows), dtype=torch.float32, device=x.device)
    per_row = {"scratch": scratch, "d_mixed": d_mixed, "spread": spread, "delta": delta}
    _run_mixed(now, grad, {**per_row, "mixed": mixed})
    found: list[Tensor | None] = [None] * len(args)
    if any(need[:3]):
        dx = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        _run_scores(now, {**per_row, "gradients": gradients})
        _run_input(now, grad, dx, gradients, of_weights)
        found[0] = dx if need[0] else None
    if normals is not None:
        of_norm, of_qkv = weight_gradients(lay, gradients, normals, norm_weight, qkv_weight)
        found[1:3] = of_norm if need[1] else None, of_qkv if need[2] else None
    if mixed is not None:
        turned = (grad.transpose(1, 2) if axis == 1 else grad).reshape(lay.rows, -1).to(lay.dtype)
        of_out = (turned.t() @ mixed)[..., : lay.head]  # [heads, channels, head]
        found[3] = of_out.transpose(0, 1).flatten(1).to(out_weight.dtype).contiguous()
    return tuple(found)


def _run_mixed(now: Setting, grad: Tensor, arguments: dict[str, Any]) -> None:
    arguments = {"grad": grad, "out": now.out, **arguments, **now.lay.strides("g", grad)}
    candidates, programs = tiles.mixed(capability(now.x), now.lay), blocks(now.lay, "ROWS", now.lay.heads)
    now.launch(_locoformer_attention_bwd_mixed_kernel, arguments, {}, candidates, programs)


def _run_scores(now: Setting, arguments: dict[str, Any]) -> None:
    for kernel, size, candidates in (
        (_locoformer_attention_bwd_keys_kernel, "KEYS", tiles.keys(capability(now.x), now.lay)),
        (_locoformer_attention_bwd_queries_kernel, "ROWS", tiles.queries(capability(now.x), now.lay)),
    ):
        now.launch(kernel, arguments, {}, candidates, blocks(now.lay, size, now.lay.heads))


def _run_input(now: Setting, grad: Tensor, dx: Tensor, gradients: Tensor, keep: bool) -> None:
    lay = now.lay
    strides = lay.strides("x", now.x) | lay.strides("g", grad) | lay.strides("y", dx)
    arguments = {"x": now.x, "grad": grad, "dx": dx, "gradients": gradients, "qkv": now.qkv, **strides}
    kernel, candidates = _locoformer_attention_bwd_input_kernel, tiles.rows(capability(now.x), lay)
    now.launch(kernel, arguments, {"KEEP": keep}, candidates, lambda t: triton.cdiv(lay.rows, t["ROWS"]))
