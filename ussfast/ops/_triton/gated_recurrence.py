"""Triton kernels of ussfast.ops.gated_recurrence, forward and backward.

A program has one band of one item. It goes along time in chunks of BT frames: products of matrices, then an associative
scan of the chunk, which the state before it is added to. Nothing but x, weights and results is in global memory.

The backward pass first goes forward once more and leaves the state before each chunk, then back chunk by chunk.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._causal_inner_backward import inner_backward
from ussfast.ops._triton._causal_parts import (
    TORCH,
    block,
    dense,
    inverse_rms,
    pad,
    rows_of,
    shifted,
    takes,
    vector,
    wanted,
)
from ussfast.ops._triton._launch import dot_types, launch
from ussfast.ops.gated_recurrence import reference

_BACKWARD_FRAMES = 16


@triton.jit
def compose(k1, a1, k2, a2):
    """h -> k1 * h + a1, then h -> k2 * h + a2."""
    return k1 * k2, a2 + k2 * a1


@triton.jit
def gate_inputs(
    normal, w1, b1, part, channels, CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr
):  # fmt: skip
    """One of the three parts of inner(normal)."""
    weight = block(w1, part * channels, channels, 0, channels, channels, CP, CP, DOT)
    out = tl.dot(normal, tl.trans(weight), input_precision=PRECISION)
    return out + vector(b1, part * channels, channels, CP)


@triton.jit
def recurrence(z, g, h, there):
    """Gate, candidate, kept share and states of a chunk, given the state before it [1, CP]; frames that are not there
    carry it on."""
    s = tl.sigmoid(z)
    candidate = 2 * tl.sigmoid(2 * g) - 1
    keep, add = tl.where(there, 1 - s, 1.0), tl.where(there, s * candidate, 0.0)
    decay, total = tl.associative_scan((keep, add), 0, compose)
    return s, candidate, keep, total + decay * h


@triton.jit
def row_of(x, index):
    """[1, columns]: one row of x."""
    return tl.sum(tl.where(tl.arange(0, x.shape[0])[:, None] == index, x, 0.0), 0, keep_dims=True)


@triton.jit
def _gated_recurrence_fwd_kernel(
    x, state, gamma, w1, b1, w2, y, last, starts, frames, bands, channels, eps, x_batch, x_frame, x_band,
    CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    # y and last are None, or starts [batch, bands, chunks, channels] is: the state before each chunk.
    program = tl.program_id(0).to(tl.int64)
    batch, band = program // bands, program % bands
    c = tl.arange(0, CP)[None, :]
    scale = vector(gamma, 0, channels, CP)
    h = vector(state, program * channels, channels, CP)
    for t0 in range(0, frames, BT):
        t = t0 + tl.arange(0, BT)[:, None]
        there = t < frames
        mask = there & (c < channels)
        at = batch * x_batch + band * x_band + t.to(tl.int64) * x_frame + c
        here = tl.load(x + at, mask, 0.0).to(tl.float32)
        normal = (here * inverse_rms(here, channels, eps) * scale).to(DOT)
        z = gate_inputs(normal, w1, b1, 0, channels, CP, DOT, PRECISION)
        g = gate_inputs(normal, w1, b1, 1, channels, CP, DOT, PRECISION)
        if starts is not None:
            chunk = program * tl.cdiv(frames, BT) + t0 // BT
            tl.store(starts + chunk * channels + c, h, c < channels)
        _, _, _, states = recurrence(z, g, h, there)
        h = row_of(states, BT - 1)
        if y is not None:
            gate = gate_inputs(normal, w1, b1, 2, channels, CP, DOT, PRECISION)
            opened = (states * gate * tl.sigmoid(gate)).to(DOT)
            weight = block(w2, 0, channels, 0, channels, channels, CP, CP, DOT)
            out = here + tl.dot(opened, tl.trans(weight), input_precision=PRECISION)
            target = ((batch * frames + t) * bands + band) * channels + c
            tl.store(y + target, out.to(y.dtype.element_ty), mask)
    if y is not None:
        tl.store(last + program * channels + c, h.to(last.dtype.element_ty), c < channels)


@triton.jit
def _gated_recurrence_bwd_kernel(
    x, gamma, w1, b1, w2, starts, grad, last_grad, d_state, d_rows, opened_rows, sums,
    frames, bands, channels, eps, x_batch, x_frame, x_band, grad_batch, grad_frame, grad_band,
    CP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    # d_rows [rows of x, 3 * channels]: gradients of inner's results. opened_rows: for the gradient of w2, or None.
    # sums [programs, 3, channels]: of the gradients of the three parts of b1.
    program = tl.program_id(0).to(tl.int64)
    batch, band = program // bands, program % bands
    c = tl.arange(0, CP)[None, :]
    scale = vector(gamma, 0, channels, CP)
    carry = tl.zeros((1, CP), tl.float32)
    if last_grad is not None:
        carry = vector(last_grad, program * channels, channels, CP)
    z_sum = tl.zeros((1, CP), tl.float32)
    g_sum = tl.zeros((1, CP), tl.float32)
    gate_sum = tl.zeros((1, CP), tl.float32)
    chunks = tl.cdiv(frames, BT)
    for i in range(chunks):
        chunk = chunks - 1 - i
        t = chunk * BT + tl.arange(0, BT)[:, None]
        there = t < frames
        mask = there & (c < channels)
        long = t.to(tl.int64)
        here = tl.load(x + batch * x_batch + band * x_band + long * x_frame + c, mask, 0.0).to(tl.float32)
        normal = (here * inverse_rms(here, channels, eps) * scale).to(DOT)
        row = (batch * frames + long) * bands + band
        z = gate_inputs(normal, w1, b1, 0, channels, CP, DOT, PRECISION)
        g = gate_inputs(normal, w1, b1, 1, channels, CP, DOT, PRECISION)
        gate = gate_inputs(normal, w1, b1, 2, channels, CP, DOT, PRECISION)
        h = vector(starts, (program * chunks + chunk) * channels, channels, CP)
        s, candidate, keep, states = recurrence(z, g, h, there)
        open_ = tl.sigmoid(gate)
        silu = gate * open_
        d_out = tl.zeros((BT, CP), tl.float32)
        if grad is not None:
            place = batch * grad_batch + band * grad_band + long * grad_frame + c
            d_out = tl.load(grad + place, mask, 0.0).to(tl.float32)
        weight = block(w2, 0, channels, 0, channels, channels, CP, CP, DOT)
        d_opened = tl.dot(d_out.to(DOT), weight, input_precision=PRECISION)
        d_gate = (d_opened * states * (open_ + silu * (1 - open_))).to(DOT)
        # What reaches a state is what it gives itself, and what the next one hands back through its kept share.
        own = d_opened * silu
        decay, total = tl.associative_scan((keep, keep * own), 0, compose, reverse=True)
        back = total + decay * carry
        d_h = own + tl.where(tl.arange(0, BT)[:, None] == BT - 1, carry, shifted(back, 1))
        d_h = tl.where(there, d_h, 0.0)
        carry = row_of(back, 0)
        # s * (candidate - the state before) * (1 - s), without that state.
        d_z = (d_h * s * (candidate - states)).to(DOT)
        d_g = (d_h * s * (1 - candidate * candidate)).to(DOT)
        if opened_rows is not None:
            tl.store(opened_rows + row * channels + c, (states * silu).to(DOT), mask)
        tl.store(d_rows + row * 3 * channels + c, d_z, mask)
        tl.store(d_rows + (row * 3 + 1) * channels + c, d_g, mask)
        tl.store(d_rows + (row * 3 + 2) * channels + c, d_gate, mask)
        z_sum += tl.sum(d_z.to(tl.float32), 0, keep_dims=True)
        g_sum += tl.sum(d_g.to(tl.float32), 0, keep_dims=True)
        gate_sum += tl.sum(d_gate.to(tl.float32), 0, keep_dims=True)
    tl.store(d_state + program * channels + c, carry, c < channels)
    sums += program * 3 * channels
    tl.store(sums + c, z_sum, c < channels)
    tl.store(sums + channels + c, g_sum, c < channels)
    tl.store(sums + 2 * channels + c, gate_sum, c < channels)


def _shared(args: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants of both kernels."""
    x, _, norm, inner, bias, outer, eps, precision = args
    x, (gamma, w1, b1, w2) = rows_of(x), dense(norm, inner, bias, outer)
    _, frames, bands, channels = x.shape
    dot, product = dot_types(x.dtype, precision)
    arguments = {"x": x, "gamma": gamma, "w1": w1, "b1": b1, "w2": w2, "frames": frames, "bands": bands}
    arguments |= {"channels": channels, "eps": eps}
    arguments |= {"x_batch": x.stride(0), "x_frame": x.stride(1), "x_band": x.stride(2)}
    return arguments, {"CP": pad(channels), "DOT": dot, "PRECISION": product}


def _forward(args: tuple[Any, ...], frames_at_once: tuple[int, ...], **results: Tensor | None) -> None:
    arguments, constants = _shared(args)
    x = arguments["x"]
    call = Call(
        _gated_recurrence_fwd_kernel,
        lambda t: (x.shape[0] * x.shape[2],),
        arguments | {"state": args[1].contiguous()} | results,
        constants,
        tuple(tile(8, 2, BT=n) for n in frames_at_once),
        matrix=True,
    )
    launch(call, x.device)


def gated_recurrence(*args: Any) -> tuple[Tensor, Tensor]:
    x, state = args[:2]
    if not takes(*args[:6]):
        y, last = reference(*args)
        return y.contiguous(), last.contiguous()
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    last = torch.empty(state.shape, dtype=x.dtype, device=x.device)
    short = x.shape[1] <= 16 or dot_types(x.dtype, args[7])[0] == tl.float32  # more spills with products of float32
    _forward(args, (16,) if short else (32, 16), y=y, last=last, starts=None)
    return y, last


def gated_recurrence_backward(
    grads: tuple[Tensor | None, Tensor | None], args: tuple[Any, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of the six tensors where `need` asks for them, from those of both results (None: zeros).

    Needs memory for 5 * channels values of the products' type per band and frame.
    """
    if not takes(*args[:6]):
        return None
    arguments, constants = _shared(args)
    x = arguments["x"]
    batch, frames, bands, channels = x.shape
    rows, dot = batch * frames * bands, TORCH[constants["DOT"]]

    def new(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=x.device)

    starts = new(batch, bands, triton.cdiv(frames, _BACKWARD_FRAMES), channels)
    _forward(args, (_BACKWARD_FRAMES,), y=None, last=None, starts=starts)
    grad, last_grad = grads
    grad = None if grad is None else rows_of(grad)
    by = (0, 0, 0) if grad is None else grad.stride()[:3]
    d_rows, sums, d_state = new(rows, 3 * channels, dtype=dot), new(batch * bands, 3, channels), new(*args[1].shape)
    opened = new(rows, channels, dtype=dot) if need[5] and grad is not None else None
    given: dict[str, Any] = arguments | {
        "grad": grad,
        "last_grad": None if last_grad is None else last_grad.contiguous(),
    }
    given |= dict(zip(("grad_batch", "grad_frame", "grad_band"), by, strict=True))
    call = Call(
        _gated_recurrence_bwd_kernel,
        lambda t: (batch * bands,),
        given | {"starts": starts, "d_state": d_state, "d_rows": d_rows, "opened_rows": opened, "sums": sums},
        constants,
        (tile(8, 1, BT=_BACKWARD_FRAMES),),
        matrix=True,
    )
    launch(call, x.device)
    products = {name: constants[name] for name in ("DOT", "PRECISION")}
    dx, _, d_gamma, normal = inner_backward(
        x, arguments["gamma"], arguments["w1"], d_rows, grad, args[6], products, need[3]
    )
    found: dict[int, Tensor | None] = {0: dx, 1: d_state, 2: d_gamma, 4: sums.sum(0)}
    found[3] = None if normal is None else d_rows.t() @ normal
    found[5] = torch.zeros_like(args[5])
    if grad is not None and opened is not None:
        found[5] = grad.reshape(-1, channels).to(dot).t() @ opened
    return wanted(found, args, need)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the model, and one frame of it."""
    for precision in ("bfloat16", "float32"):
        for frames in (376, 1):
            x = torch.empty(8, frames, 24, 64, device="meta")
            new = x.new_empty
            weights = new(64), new(192, 64), new(192), new(64, 64)
            args = x, new(8, 24, 64), *weights, 1e-5, precision
            yield f"{frames} frames, {precision}", gated_recurrence, args
            if frames > 1:
                grads, need = (x, args[1]), (*[True] * 6, False, False)
                yield f"gradients, {precision}", gated_recurrence_backward, (grads, args, need)
