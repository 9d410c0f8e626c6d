"""Backward pass of the first matrix of the causal model's layers, and of the norm before it: from gradients of its
results to that of x. gated_recurrence, band_attention and conv_ffn have it in common.

Virtual rows. Every sequence along the axis has `steps` = length + taps - 1 rows: row v is step v % steps of sequence
v // steps, and has the normalised position v % steps - before. Results see the normalised rows v to v + taps - 1; rows
of results beyond the length are zeros, so that nothing has to be cut at the ends of sequences. With one tap and the
bands as axis, virtual rows are the rows of x.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._causal_parts import TORCH, block, inverse_rms, norm_gradient, pad, vector
from ussfast.ops._triton._launch import launch


@triton.jit
def places(v, steps, others, before):
    """Batch and other index in 64 bits, and position, of each virtual row."""
    sequence = v // steps
    return (sequence // others).to(tl.int64), (sequence % others).to(tl.int64), v % steps - before


@triton.jit
def inputs(
    x, past, batch, other, n, real, c, length, x_batch, x_other, x_step, past_batch, past_other, past_step,
    before: tl.constexpr,
):  # fmt: skip
    """[rows, channels] in float32 at positions n, from the past where that is negative; zeros outside of both."""
    at = batch * x_batch + other * x_other + n.to(tl.int64) * x_step + c
    here = tl.load(x + at, real & (n >= 0) & (n < length), 0.0).to(tl.float32)
    if past is not None:
        at = batch * past_batch + other * past_other + (n + before).to(tl.int64) * past_step + c
        here += tl.load(past + at, real & (n < 0) & (n >= -before), 0.0).to(tl.float32)
    return here


@triton.jit
def _causal_inner_bwd_kernel(
    x, past, gamma, w, d_rows, grad, dx, d_past, normal_rows, sums, length, steps, total, others, width, channels, eps,
    x_batch, x_other, x_step, past_batch, past_other, past_step, grad_batch, grad_other, grad_step,
    dx_batch, dx_other, dx_step,
    TAPS: tl.constexpr, BEFORE: tl.constexpr, CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BR: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    # sums [programs, channels]: of the gradient of gamma. normal_rows: for the gradient of w, or None.
    v = tl.program_id(0) * BR + tl.arange(0, BR)[:, None]
    c = tl.arange(0, CP)[None, :]
    d_normal = tl.zeros((BR, CP), tl.float32)
    parts = tl.cdiv(width, BW)
    for i in range(TAPS * parts):
        tap, first = i // parts, i % parts * BW
        row, column = v - tap, first + tl.arange(0, BW)[None, :]
        known = (row >= 0) & (row < total) & (column < width)
        d = tl.load(d_rows + row.to(tl.int64) * width + column, known, 0.0)
        weight = block(w, first, width - first, tap * channels, channels, TAPS * channels, BW, CP, DOT)
        d_normal = tl.dot(d, weight, d_normal, input_precision=PRECISION)
    batch, other, n = places(v, steps, others, BEFORE)
    real = (v < total) & (c < channels)
    here = inputs(
        x, past, batch, other, n, real, c, length, x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE
    )
    inverse, scale = inverse_rms(here, channels, eps), vector(gamma, 0, channels, CP)
    inside = real & (n >= 0) & (n < length)
    if normal_rows is not None:
        tl.store(normal_rows + v.to(tl.int64) * channels + c, (here * inverse * scale).to(DOT), real)
    tl.store(sums + tl.program_id(0) * channels + c, tl.sum(d_normal * here * inverse, 0, keep_dims=True), c < channels)
    d_here = norm_gradient(d_normal, here, inverse, scale, channels)
    if d_past is not None:
        at = batch * past_batch + other * past_other + (n + BEFORE).to(tl.int64) * past_step + c
        tl.store(d_past + at, d_here.to(d_past.dtype.element_ty), real & (n < 0))
    if grad is not None:
        at = batch * grad_batch + other * grad_other + n.to(tl.int64) * grad_step + c
        d_here += tl.load(grad + at, inside, 0.0).to(tl.float32)
    at = batch * dx_batch + other * dx_other + n.to(tl.int64) * dx_step + c
    tl.store(dx + at, d_here.to(dx.dtype.element_ty), inside)


def strides(t: Tensor | None, axis: int, name: str) -> dict[str, int]:
    """Of sequences and positions, by the names of the kernels' arguments."""
    batch, other, step = (0, 0, 0) if t is None else (t.stride(0), t.stride(3 - axis), t.stride(axis))
    return {f"{name}_batch": batch, f"{name}_other": other, f"{name}_step": step}


def inner_backward(
    x: Tensor, gamma: Tensor, w: Tensor, d_rows: Tensor, grad: Tensor | None, eps: float, constants: dict[str, Any],
    normal: bool, axis: int = 2, past: Tensor | None = None, taps: int = 1, before: int = 0,
) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of x, past and gamma, and the normalised rows [virtual rows, channels] if `normal`.

    Args:
        x, grad: [batch, frames, bands, channels], channels next to each other. grad is that of the residual.
        past: contiguous.
        d_rows: [virtual rows, width], gradients of results of w in the products' type.
        w: [width, taps * channels], contiguous.
        constants: DOT and PRECISION.
    """
    total, width = d_rows.shape
    channels, length, others = x.shape[3], x.shape[axis], x.shape[3 - axis]
    dot = TORCH[constants["DOT"]]
    rows = 64

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    dx = new(*x.shape, dtype=x.dtype)
    d_past = None if past is None else new(*past.shape, dtype=past.dtype)
    normal_rows = new(total, channels, dtype=dot) if normal else None
    sums = new(triton.cdiv(total, rows), channels)
    arguments: dict[str, Any] = {"x": x, "past": past, "gamma": gamma, "w": w, "d_rows": d_rows, "grad": grad}
    arguments |= {"dx": dx, "d_past": d_past, "normal_rows": normal_rows, "sums": sums, "length": length}
    arguments |= {"steps": length + taps - 1, "total": total, "others": others, "width": width, "channels": channels}
    arguments |= {"eps": eps} | strides(x, axis, "x") | strides(past, axis, "past") | strides(grad, axis, "grad")
    call = Call(
        _causal_inner_bwd_kernel,
        lambda t: (triton.cdiv(total, rows),),
        arguments | strides(dx, axis, "dx"),
        constants | {"TAPS": taps, "BEFORE": before, "CP": pad(channels), "BR": rows},
        (tile(8, 2, BW=32),),
        matrix=True,
    )
    launch(call, x.device)
    return dx, d_past, sums.sum(0), normal_rows
