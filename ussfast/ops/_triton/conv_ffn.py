"""Triton kernels of ussfast.ops.conv_ffn, forward and backward.

A program of the forward pass has BN rows of results: it normalises their three neighbours, which stay on the chip
(KEPT) or are loaded for every BH hidden units. The backward pass does the same up to the gradients before the SwiGLU,
which it leaves in virtual rows; the rest of it is _causal_inner_backward.py, which also says how rows are numbered.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, Tile, tile
from ussfast.ops._triton._causal_inner_backward import inner_backward, inputs, places, strides
from ussfast.ops._triton._causal_parts import (
    TORCH,
    block,
    dense,
    inverse_rms,
    pad,
    rows_of,
    takes,
    vector,
    wanted,
)
from ussfast.ops._triton._launch import capability, dot_types, launch
from ussfast.ops._triton._tuples import empty
from ussfast.ops.conv_ffn import KERNEL, reference


@triton.jit
def normal_tap(
    x, past, scale, batch, other, n, real, c, length, channels, eps, x_batch, x_other, x_step,
    past_batch, past_other, past_step, BEFORE: tl.constexpr, DOT: tl.constexpr,
):  # fmt: skip
    """Normalised rows at positions n, zeros outside."""
    here = inputs(
        x, past, batch, other, n, real, c, length, x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE
    )
    return (here * inverse_rms(here, channels, eps) * scale).to(DOT)


@triton.jit
def add_tap(
    value, gate, tap, w1, j, h0, hidden, channels, KERNEL: tl.constexpr, CP: tl.constexpr, BH: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Adds to the values and gates of BH units from h0 on what tap j has for them."""
    weight = block(w1, h0, hidden - h0, j * channels, channels, KERNEL * channels, BH, CP, DOT)
    value = tl.dot(tap, tl.trans(weight), value, input_precision=PRECISION)
    weight = block(w1, hidden + h0, hidden - h0, j * channels, channels, KERNEL * channels, BH, CP, DOT)
    return value, tl.dot(tap, tl.trans(weight), gate, input_precision=PRECISION)


@triton.jit
def _conv_ffn_fwd_kernel(
    x, past, gamma, w1, b1, w2, b2, y, length, steps, total, others, hidden, channels, kernel, eps,
    x_batch, x_other, x_step, past_batch, past_other, past_step, y_batch, y_other, y_step,
    KERNEL: tl.constexpr, BEFORE: tl.constexpr, CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    # kernel is KERNEL, which compilers would unroll loops over: more registers than there are.
    v = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    c = tl.arange(0, CP)[None, :]
    batch, other, n = places(v, steps, others, 0)
    real = (v < total) & (c < channels)
    scale = vector(gamma, 0, channels, CP)
    taps = empty()
    if KEPT:
        for j in tl.static_range(KERNEL):
            taps += (
                normal_tap(
                    x, past, scale, batch, other, n + (j - BEFORE), real, c, length, channels, eps,
                    x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE, DOT,
                ),
            )  # fmt: skip
    out = tl.zeros((BN, CP), tl.float32)
    for h0 in range(0, hidden, BH):
        value, gate = tl.zeros((BN, BH), tl.float32), tl.zeros((BN, BH), tl.float32)
        if KEPT:
            for j in tl.static_range(KERNEL):
                value, gate = add_tap(
                    value, gate, taps[j], w1, j, h0, hidden, channels, KERNEL, CP, BH, DOT, PRECISION
                )  # fmt: skip
        else:
            for j in range(kernel):
                tap = normal_tap(
                    x, past, scale, batch, other, n + (j - BEFORE), real, c, length, channels, eps,
                    x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE, DOT,
                )  # fmt: skip
                value, gate = add_tap(value, gate, tap, w1, j, h0, hidden, channels, KERNEL, CP, BH, DOT, PRECISION)
        value += vector(b1, h0, hidden - h0, BH)
        gate += vector(b1, hidden + h0, hidden - h0, BH)
        h = (value * gate * tl.sigmoid(gate)).to(DOT)
        weight = block(w2, 0, channels, h0, hidden - h0, hidden, CP, BH, DOT)
        out = tl.dot(h, tl.trans(weight), out, input_precision=PRECISION)
    at = batch * x_batch + other * x_other + n.to(tl.int64) * x_step + c
    out += vector(b2, 0, channels, CP) + tl.load(x + at, real, 0.0).to(tl.float32)
    at = batch * y_batch + other * y_other + n.to(tl.int64) * y_step + c
    tl.store(y + at, out.to(y.dtype.element_ty), real)


@triton.jit
def _conv_ffn_bwd_kernel(
    x, past, gamma, w1, b1, w2, grad, d_rows, hidden_rows, length, steps, total, others, hidden, channels, kernel, eps,
    x_batch, x_other, x_step, past_batch, past_other, past_step, grad_batch, grad_other, grad_step,
    row_batch, row_other, row_step,
    KERNEL: tl.constexpr, BEFORE: tl.constexpr, CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    # d_rows [virtual rows, 2 * hidden]: gradients of inner's results. hidden_rows [rows of x, hidden]: for the gradient
    # of w2, or None.
    v = tl.program_id(0) * BN + tl.arange(0, BN)[:, None]
    c = tl.arange(0, CP)[None, :]
    batch, other, n = places(v, steps, others, 0)
    inside = (v < total) & (n < length)
    real = inside & (c < channels)
    scale = vector(gamma, 0, channels, CP)
    taps = empty()
    if KEPT:
        for j in tl.static_range(KERNEL):
            taps += (
                normal_tap(
                    x, past, scale, batch, other, n + (j - BEFORE), real, c, length, channels, eps,
                    x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE, DOT,
                ),
            )  # fmt: skip
    at = batch * grad_batch + other * grad_other + n.to(tl.int64) * grad_step + c
    d_out = tl.load(grad + at, real, 0.0).to(DOT)
    row = batch * row_batch + other * row_other + n.to(tl.int64) * row_step
    for h0 in range(0, hidden, BH):
        value, gate = tl.zeros((BN, BH), tl.float32), tl.zeros((BN, BH), tl.float32)
        if KEPT:
            for j in tl.static_range(KERNEL):
                value, gate = add_tap(
                    value, gate, taps[j], w1, j, h0, hidden, channels, KERNEL, CP, BH, DOT, PRECISION
                )  # fmt: skip
        else:
            for j in range(kernel):
                tap = normal_tap(
                    x, past, scale, batch, other, n + (j - BEFORE), real, c, length, channels, eps,
                    x_batch, x_other, x_step, past_batch, past_other, past_step, BEFORE, DOT,
                )  # fmt: skip
                value, gate = add_tap(value, gate, tap, w1, j, h0, hidden, channels, KERNEL, CP, BH, DOT, PRECISION)
        value += vector(b1, h0, hidden - h0, BH)
        gate += vector(b1, hidden + h0, hidden - h0, BH)
        weight = block(w2, 0, channels, h0, hidden - h0, hidden, CP, BH, DOT)
        d_h = tl.dot(d_out, weight, input_precision=PRECISION)
        open_ = tl.sigmoid(gate)
        silu = gate * open_
        unit = h0 + tl.arange(0, BH)[None, :]
        # Rows beyond a sequence have gradients of zero, as the next kernel expects them.
        target = d_rows + v.to(tl.int64) * 2 * hidden + unit
        d_gate = d_h * value * (open_ + silu * (1 - open_))
        tl.store(target, (d_h * silu).to(DOT), (v < total) & (unit < hidden))
        tl.store(target + hidden, d_gate.to(DOT), (v < total) & (unit < hidden))
        if hidden_rows is not None:
            tl.store(hidden_rows + row * hidden + unit, (value * silu).to(DOT), inside & (unit < hidden))


def _shared(args: tuple[Any, ...], steps: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants of both kernels; steps: rows of a sequence."""
    x, past, norm, inner, inner_bias, outer, _, axis, eps, precision = args
    x, past = rows_of(x), None if past is None else past.contiguous()
    gamma, w1, b1, w2 = dense(norm, inner, inner_bias, outer)
    dot, product = dot_types(x.dtype, precision)
    arguments: dict[str, Any] = {"x": x, "past": past, "gamma": gamma, "w1": w1, "b1": b1, "w2": w2, "eps": eps}
    arguments |= {"length": x.shape[axis], "steps": steps, "others": x.shape[3 - axis], "channels": x.shape[3]}
    arguments |= {"total": x.shape[0] * x.shape[3 - axis] * steps, "hidden": outer.shape[1], "kernel": KERNEL}
    arguments |= strides(x, axis, "x") | strides(past, axis, "past")
    constants = {"KERNEL": KERNEL, "BEFORE": _before(axis), "CP": pad(x.shape[3]), "DOT": dot, "PRECISION": product}
    return arguments, constants


def _before(axis: int) -> int:
    """Neighbours before a row itself."""
    return KERNEL - 1 if axis == 1 else 1


def tiles(constants: dict[str, Any], arch: int) -> tuple[Tile, ...]:
    if constants["DOT"] == tl.float32:
        return tile(8, 1, BN=32, BH=16, KEPT=0), tile(8, 1, BN=16, BH=32, KEPT=0)
    small = tile(4, 2, BN=32, BH=32, KEPT=1)
    return (tile(8, 2, BN=64, BH=32, KEPT=1), small) if arch in (90, 100) else (small,)


def conv_ffn(*args: Any) -> Tensor:
    x, axis = args[0], args[7]
    if not takes(*args[:7]):
        return reference(*args).contiguous()
    arguments, constants = _shared(args, x.shape[axis])
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    call = Call(
        _conv_ffn_fwd_kernel,
        lambda t: (triton.cdiv(arguments["total"], t["BN"]),),
        arguments | {"b2": args[6].contiguous(), "y": y} | strides(y, axis, "y"),
        constants,
        tiles(constants, capability(x)),
        matrix=True,
    )
    launch(call, x.device)
    return y


def conv_ffn_backward(grad: Tensor, args: tuple[Any, ...], need: tuple[bool, ...]) -> tuple[Tensor | None, ...] | None:
    """Gradients of the tensors where `need` asks for them, None for everything else.

    Needs memory for 3 * hidden + channels values of the products' type per row of x.
    """
    if not takes(*args[:7]):
        return None
    axis, grad = args[7], rows_of(grad)
    arguments, constants = _shared(args, args[0].shape[axis] + KERNEL - 1)
    x, total, hidden = arguments["x"], arguments["total"], arguments["hidden"]
    dot = TORCH[constants["DOT"]]
    d_rows = torch.empty(total, 2 * hidden, dtype=dot, device=x.device)
    hidden_rows = torch.empty(*x.shape[:3], hidden, dtype=dot, device=x.device) if need[5] else None
    by = {name: n // hidden for name, n in strides(hidden_rows, axis, "row").items()}
    call = Call(
        _conv_ffn_bwd_kernel,
        lambda t: (triton.cdiv(total, t["BN"]),),
        arguments | {"grad": grad, "d_rows": d_rows, "hidden_rows": hidden_rows} | strides(grad, axis, "grad") | by,
        constants,
        tiles(constants, capability(x)),
        matrix=True,
    )
    launch(call, x.device)
    products = {name: constants[name] for name in ("DOT", "PRECISION")}
    dx, d_past, d_gamma, normal = inner_backward(
        x, arguments["gamma"], arguments["w1"], d_rows, grad, args[8], products, need[3],
        axis, arguments["past"], KERNEL, constants["BEFORE"],
    )  # fmt: skip
    found: dict[int, Tensor | None] = {0: dx, 1: d_past, 2: d_gamma}
    if normal is not None:
        # The last rows of all have no later neighbours, and gradients of zero.
        taps = [d_rows[: total - j].t() @ normal[j:] for j in range(KERNEL)]
        found[3] = torch.stack(taps, 1)
    if need[4]:
        found[4] = d_rows.sum(0, dtype=torch.float32)
    if hidden_rows is not None:
        found[5] = grad.reshape(-1, x.shape[3]).to(dot).t() @ hidden_rows.flatten(0, 2)
    if need[6]:
        found[6] = grad.sum((0, 1, 2), dtype=torch.float32)
    return wanted(found, args, need)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the model, among bands and along time."""
    for precision in ("bfloat16", "float32"):
        for axis, name in ((2, "bands"), (1, "time")):
            x = torch.empty(8, 376, 24, 64, device="meta")
            new = x.new_empty
            weights = new(64), new(192, 192), new(192), new(64, 96), new(64)
            args = x, new(8, 2, 24, 64) if axis == 1 else None, *weights, axis, 1e-5, precision
            yield f"{name}, {precision}", conv_ffn, args
            need = (True, axis == 1, *[True] * 5, *[False] * 3)
            yield f"{name}, {precision}, gradients", conv_ffn_backward, (x, args, need)
