"""Triton kernels of ussfast.ops.band_attention, forward and backward.

A program has one frame: all of its bands, head after head, nothing but x, weights and results in global memory. The
backward pass leaves gradients of q, k and v; the rest of it is _causal_inner_backward.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, Tile, tile
from ussfast.ops._triton._causal_inner_backward import inner_backward
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
from ussfast.ops._triton._launch import dot_types, launch
from ussfast.ops.band_attention import reference

MOST_BANDS = 64


@triton.jit
def head(
    rows, real, inverse, gamma, qkv, i, width, channels, BC: tl.constexpr, DP: tl.constexpr, DOT: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """q, k and v of head i, [bands, DP] in float32, from BC channels at a time: rows has pointers to the first ones."""
    q = tl.zeros((rows.shape[0], DP), tl.float32)
    k = tl.zeros((rows.shape[0], DP), tl.float32)
    v = tl.zeros((rows.shape[0], DP), tl.float32)
    for c0 in range(0, channels, BC):
        c = c0 + tl.arange(0, BC)[None, :]
        here = tl.load(rows + c, real & (c < channels), 0.0).to(tl.float32)
        normal = (here * inverse * vector(gamma, c0, channels - c0, BC)).to(DOT)
        weight = block(qkv, i * width, width, c0, channels - c0, channels, DP, BC, DOT)
        q = tl.dot(normal, tl.trans(weight), q, input_precision=PRECISION)
        weight = block(qkv, channels + i * width, width, c0, channels - c0, channels, DP, BC, DOT)
        k = tl.dot(normal, tl.trans(weight), k, input_precision=PRECISION)
        weight = block(qkv, 2 * channels + i * width, width, c0, channels - c0, channels, DP, BC, DOT)
        v = tl.dot(normal, tl.trans(weight), v, input_precision=PRECISION)
    return q, k, v


@triton.jit
def shares(q, k, bands, slope, PRECISION: tl.constexpr):
    """softmax(slope * q k^T) [queries, keys], keys that are not there left out."""
    scores = tl.dot(q, tl.trans(k), input_precision=PRECISION) * slope
    scores = tl.where(tl.arange(0, k.shape[0])[None, :] < bands, scores, float("-inf"))
    power = tl.exp(scores - tl.max(scores, 1, keep_dims=True))
    return power / tl.sum(power, 1, keep_dims=True)


@triton.jit
def _band_attention_fwd_kernel(
    x, gamma, qkv, w2, y, frames, bands, channels, heads, width, slope, eps, x_batch, x_frame, x_band,
    KP: tl.constexpr, CP: tl.constexpr, DP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    # EXACT: precision of attention itself, whose factors are float32.
    frame = tl.program_id(0).to(tl.int64)
    band, c = tl.arange(0, KP)[:, None], tl.arange(0, CP)[None, :]
    real = (band < bands) & (c < channels)
    rows = x + frame // frames * x_batch + frame % frames * x_frame + band.to(tl.int64) * x_band
    here = tl.load(rows + c, real, 0.0).to(tl.float32)
    inverse = inverse_rms(here, channels, eps)
    out = tl.zeros((KP, CP), tl.float32)
    for i in range(heads):
        q, k, v = head(rows, band < bands, inverse, gamma, qkv, i, width, channels, BC, DP, DOT, PRECISION)
        mixed = tl.dot(shares(q, k, bands, slope, EXACT), v, input_precision=EXACT).to(DOT)
        weight = block(w2, 0, channels, i * width, width, channels, CP, DP, DOT)
        out += tl.dot(mixed, tl.trans(weight), input_precision=PRECISION)
    out += tl.load(rows + c, real, 0.0).to(tl.float32)
    tl.store(y + (frame * bands + band) * channels + c, out.to(y.dtype.element_ty), real)


@triton.jit
def _band_attention_bwd_kernel(
    x, gamma, qkv, w2, grad, d_rows, mixed_rows, frames, bands, channels, heads, width, slope, eps,
    x_batch, x_frame, x_band, grad_batch, grad_frame, grad_band,
    KP: tl.constexpr, CP: tl.constexpr, DP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    EXACT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    # d_rows [rows of x, 3 * channels]: gradients of q, k and v. mixed_rows: for the gradient of w2, or None.
    frame = tl.program_id(0).to(tl.int64)
    band, c = tl.arange(0, KP)[:, None], tl.arange(0, CP)[None, :]
    real = (band < bands) & (c < channels)
    rows = x + frame // frames * x_batch + frame % frames * x_frame + band.to(tl.int64) * x_band
    here = tl.load(rows + c, real, 0.0).to(tl.float32)
    inverse = inverse_rms(here, channels, eps)
    grads = grad + frame // frames * grad_batch + frame % frames * grad_frame + band.to(tl.int64) * grad_band
    d = tl.arange(0, DP)[None, :]
    row, mask = frame * bands + band, (band < bands) & (d < width)
    for i in range(heads):
        q, k, v = head(rows, band < bands, inverse, gamma, qkv, i, width, channels, BC, DP, DOT, PRECISION)
        share = shares(q, k, bands, slope, EXACT)
        if mixed_rows is not None:
            mixed = tl.dot(share, v, input_precision=EXACT)
            tl.store(mixed_rows + row * channels + i * width + d, mixed.to(DOT), mask)
        d_mixed = tl.zeros((KP, DP), tl.float32)
        for c0 in range(0, channels, BC):
            part = c0 + tl.arange(0, BC)[None, :]
            d_out = tl.load(grads + part, (band < bands) & (part < channels), 0.0).to(DOT)
            weight = block(w2, c0, channels - c0, i * width, width, channels, BC, DP, DOT)
            d_mixed = tl.dot(d_out, weight, d_mixed, input_precision=PRECISION)
        target = d_rows + row * 3 * channels + i * width + d
        d_v = tl.dot(tl.trans(share), d_mixed, input_precision=EXACT)
        tl.store(target + 2 * channels, d_v.to(DOT), mask)
        d_share = tl.dot(d_mixed, tl.trans(v), input_precision=EXACT)
        d_scores = share * (d_share - tl.sum(d_share * share, 1, keep_dims=True)) * slope
        tl.store(target, tl.dot(d_scores, k, input_precision=EXACT).to(DOT), mask)
        d_k = tl.dot(tl.trans(d_scores), q, input_precision=EXACT)
        tl.store(target + channels, d_k.to(DOT), mask)


def _takes(args: tuple[Any, ...]) -> bool:
    return takes(*args[:4]) and args[0].shape[2] <= MOST_BANDS


def _shared(args: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants of both kernels."""
    x, norm, qkv, out, heads, eps, precision = args
    x, (gamma, w1, w2) = rows_of(x), dense(norm, qkv, out)
    _, frames, bands, channels = x.shape
    width = channels // heads
    dot, product = dot_types(x.dtype, precision)
    arguments: dict[str, Any] = {"x": x, "gamma": gamma, "qkv": w1, "w2": w2, "frames": frames, "bands": bands}
    arguments |= {"channels": channels, "heads": heads, "width": width, "slope": width**-0.5, "eps": eps}
    arguments |= {"x_batch": x.stride(0), "x_frame": x.stride(1), "x_band": x.stride(2)}
    constants = {"KP": pad(bands), "CP": pad(channels), "DP": pad(width), "DOT": dot, "PRECISION": product}
    return arguments, constants | {"EXACT": dot_types(torch.float32)[1]}


def tiles(constants: dict[str, Any]) -> tuple[Tile, ...]:
    """Products of float32 need registers for parts of their factors: fewer channels at a time."""
    part = 16 if constants["DOT"] == tl.float32 else min(32, constants["CP"])
    return tile(8, 1, BC=part), tile(4, 1, BC=16)


def band_attention(*args: Any) -> Tensor:
    if not _takes(args):
        return reference(*args).contiguous()
    arguments, constants = _shared(args)
    x = arguments["x"]
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    call = Call(
        _band_attention_fwd_kernel,
        lambda t: (x.shape[0] * x.shape[1],),
        arguments | {"y": y},
        constants,
        tiles(constants),
        matrix=True,
    )
    launch(call, x.device)
    return y


def band_attention_backward(
    grad: Tensor, args: tuple[Any, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of the four tensors where `need` asks for them, None for everything else.

    Needs memory for 5 * channels values of the products' type per band and frame.
    """
    if not _takes(args):
        return None
    arguments, constants = _shared(args)
    x, grad = arguments["x"], rows_of(grad)
    rows, channels, dot = x.shape[0] * x.shape[1] * x.shape[2], x.shape[3], TORCH[constants["DOT"]]
    d_rows = torch.empty(rows, 3 * channels, dtype=dot, device=x.device)
    mixed = torch.empty(rows, channels, dtype=dot, device=x.device) if need[3] else None
    by = dict(zip(("grad_batch", "grad_frame", "grad_band"), grad.stride()[:3], strict=True))
    call = Call(
        _band_attention_bwd_kernel,
        lambda t: (x.shape[0] * x.shape[1],),
        arguments | {"grad": grad, "d_rows": d_rows, "mixed_rows": mixed} | by,
        constants,
        tiles(constants),
        matrix=True,
    )
    launch(call, x.device)
    products = {name: constants[name] for name in ("DOT", "PRECISION")}
    dx, _, d_gamma, normal = inner_backward(
        x, arguments["gamma"], arguments["qkv"], d_rows, grad, args[5], products, need[2]
    )
    found: dict[int, Tensor | None] = {0: dx, 1: d_gamma}
    found[2] = None if normal is None else d_rows.t() @ normal
    found[3] = None if mixed is None else grad.reshape(-1, channels).to(dot).t() @ mixed
    return wanted(found, args, need)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the model."""
    for precision in ("bfloat16", "float32"):
        x = torch.empty(8, 376, 24, 64, device="meta")
        args = x, x.new_empty(64), x.new_empty(192, 64), x.new_empty(64, 64), 2, 1e-5, precision
        yield precision, band_attention, args
        yield f"{precision}, gradients", band_attention_backward, (x, args, (*[True] * 4, False, False, False))
