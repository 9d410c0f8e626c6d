"""Backward pass of ussfast.ops.band_masks in Triton: the forward pass's hidden layer again, then gradients of the
weights of features, of the hidden layer with its norm, and of features. Gradients of matrices are batched products."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._band_masks_parts import Masks, gated, hidden, masks_of, sizes_at_once, tokens
from ussfast.ops._triton._bands import band_parts, band_starts
from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._causal_parts import block, inverse_rms, norm_gradient, vector, wanted
from ussfast.ops._triton._launch import launch
from ussfast.ops.band_split import runs


@triton.jit
def _band_masks_bwd_weights_kernel(
    grad, features, starts, d_weights, rows, frames, of_item, bins, bands, count, FQ: tl.constexpr, BN: tl.constexpr
):
    # d_weights [rows, bands, 2 * count]; of_item: rows of an item.
    r, band = tl.program_id(0) * BN + tl.arange(0, BN)[:, None], tl.program_id(1)
    f = tl.arange(0, FQ)[None, :]
    frame = (r // of_item * frames + r % frames).to(tl.int64)
    re = tl.zeros((BN, FQ), tl.float32)
    im = tl.zeros((BN, FQ), tl.float32)
    for bin_ in range(tl.load(starts + band), tl.load(starts + band + 1)):
        at = (r.to(tl.int64) * bins + bin_) * 2
        value = tl.load(features + (frame * bins + bin_) * count + f, (r < rows) & (f < count), 0.0).to(tl.float32)
        re += value * tl.load(grad + at, r < rows, 0.0).to(tl.float32)
        im += value * tl.load(grad + at + 1, r < rows, 0.0).to(tl.float32)
    target = d_weights + (r.to(tl.int64) * bands + band) * 2 * count + f
    tl.store(target, re, (r < rows) & (f < count))
    tl.store(target + count, im, (r < rows) & (f < count))


@triton.jit
def _band_masks_bwd_hidden_kernel(
    x, gamma, inner, weigh, outer, grad, d_weights, starts, dx, d_rows, normal_rows, sums,
    rows, bins, bands, dim, hidden, count, eps,
    CP: tl.constexpr, FP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    # d_rows [rows, bands, 2 * hidden]: gradients of inner's results. normal_rows [rows, bands, dim]: for the gradient
    # of inner, or None. sums [rows / BN, bands, dim]: of the gradient of gamma.
    row, band = tl.program_id(0) * BN, tl.program_id(1)
    start = tl.load(starts + band)
    width = 2 * (tl.load(starts + band + 1) - start)
    here = tokens(x, row, rows, band, bands, dim, BN, CP)
    normal = (here * inverse_rms(here, dim, eps) * vector(gamma, 0, dim, CP)).to(DOT)
    w1 = inner + band.to(tl.int64) * dim * 2 * hidden
    w2 = weigh + band.to(tl.int64) * hidden * 2 * count
    w3 = outer + start.to(tl.int64) * 2 * hidden
    grads = grad + (row.to(tl.int64) * bins + start) * 2
    of_row = d_weights + (row.to(tl.int64) * bands + band) * 2 * count
    r = row + tl.arange(0, BN)[:, None]
    place = r.to(tl.int64) * bands + band
    d_normal = tl.zeros((BN, CP), tl.float32)
    for h0 in range(0, hidden, BH):
        d_weight = block(of_row, 0, rows - row, 0, 2 * count, bands * 2 * count, BN, FP, DOT)
        weight = block(w2, h0, hidden - h0, 0, 2 * count, 2 * count, BH, FP, DOT)
        d_h = tl.dot(d_weight, tl.trans(weight), input_precision=PRECISION)
        for c0 in range(0, width, BC):
            d_out = block(grads, 0, rows - row, c0, width - c0, 2 * bins, BN, BC, DOT)
            of_bins = block(w3, h0, hidden - h0, c0, width - c0, width, BH, BC, DOT)
            d_h = tl.dot(d_out, tl.trans(of_bins), d_h, input_precision=PRECISION)
        value, gate = gated(normal, w1, h0, hidden, dim, CP, BH, DOT, PRECISION)
        open_ = tl.sigmoid(gate)
        silu = gate * open_
        d_value, d_gate = (d_h * silu).to(DOT), (d_h * value * (open_ + silu * (1 - open_))).to(DOT)
        unit = h0 + tl.arange(0, BH)[None, :]
        target = d_rows + place * 2 * hidden + unit
        tl.store(target, d_value, (r < rows) & (unit < hidden))
        tl.store(target + hidden, d_gate, (r < rows) & (unit < hidden))
        weight = block(w1, 0, dim, h0, hidden - h0, 2 * hidden, CP, BH, DOT)
        d_normal = tl.dot(d_value, tl.trans(weight), d_normal, input_precision=PRECISION)
        weight = block(w1, 0, dim, hidden + h0, hidden - h0, 2 * hidden, CP, BH, DOT)
        d_normal = tl.dot(d_gate, tl.trans(weight), d_normal, input_precision=PRECISION)
    here = tokens(x, row, rows, band, bands, dim, BN, CP)
    inverse, scale = inverse_rms(here, dim, eps), vector(gamma, 0, dim, CP)
    c = tl.arange(0, CP)[None, :]
    real = (r < rows) & (c < dim)
    d_here = norm_gradient(d_normal, here, inverse, scale, dim)
    tl.store(dx + place * dim + c, d_here.to(dx.dtype.element_ty), real)
    if normal_rows is not None:
        tl.store(normal_rows + place * dim + c, (here * inverse * scale).to(DOT), real)
    total = tl.sum(d_normal * here * inverse, 0, keep_dims=True)
    tl.store(sums + (tl.program_id(0) * bands + band) * dim + c, total, c < dim)


@triton.jit
def _band_masks_bwd_features_kernel(
    grad, weights, starts, parts, d_features, rows, frames, sources, bins, bands, count,
    BB: tl.constexpr, FQ: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # rows: frames of all items.
    r = tl.program_id(0) * BN + tl.arange(0, BN)[:, None, None]
    band, first = tl.load(parts + 2 * tl.program_id(1)), tl.load(parts + 2 * tl.program_id(1) + 1)
    bin_, f = first + tl.arange(0, BB)[None, :, None], tl.arange(0, FQ)[None, None, :]
    there = (r < rows) & (bin_ < tl.load(starts + band + 1))
    known = (r < rows) & (f < count)
    total = tl.zeros((BN, BB, FQ), tl.float32)
    for source in range(sources):
        own = ((r // frames * sources + source) * frames + r % frames).to(tl.int64)
        at = (own * bins + bin_) * 2
        weight = weights + (own * bands + band) * 2 * count + f
        total += tl.load(grad + at, there, 0.0).to(tl.float32) * tl.load(weight, known, 0.0)
        total += tl.load(grad + at + 1, there, 0.0).to(tl.float32) * tl.load(weight + count, known, 0.0)
    at = (r.to(tl.int64) * bins + bin_) * count + f
    tl.store(d_features + at, total.to(d_features.dtype.element_ty), there & (f < count))


def _of_weights(m: Masks, grad: Tensor) -> Tensor:
    bins, count, bands = m.features.shape[2], m.sizes["count"], m.sizes["bands"]
    d_weights = m.new(m.rows, bands, 2 * count)
    frames = m.x.shape[2]
    call = Call(
        _band_masks_bwd_weights_kernel,
        lambda t: (triton.cdiv(m.rows, t["BN"]), bands),
        {"grad": grad, "features": m.features, "starts": band_starts(m.bands, m.x.device), "d_weights": d_weights}
        | {"rows": m.rows, "frames": frames, "of_item": m.x.shape[1] * frames, "bins": bins, "bands": bands}
        | {"count": count},
        {"FQ": triton.next_power_of_2(count)},
        (tile(4, 1, BN=32), tile(4, 1, BN=16)),
    )
    launch(call, m.x.device)
    return d_weights


def _of_hidden(m: Masks, grad: Tensor, d_weights: Tensor, normal: bool) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Gradients of x, of inner's results and of gamma, and the normalised tokens if `normal`."""
    bands, dim, units = m.sizes["bands"], m.sizes["dim"], m.sizes["hidden"]
    at_once = sizes_at_once(m)[0][0]
    dx, d_rows = m.new(*m.x.shape, dtype=m.x.dtype), m.new(m.rows, bands, 2 * units, dtype=m.dot)
    normal_rows = m.new(m.rows, bands, dim, dtype=m.dot) if normal else None
    sums = m.new(triton.cdiv(m.rows, at_once), bands, dim)
    call = Call(
        _band_masks_bwd_hidden_kernel,
        lambda t: (triton.cdiv(m.rows, at_once), bands),
        {"x": m.x, "gamma": m.gamma, "inner": m.inner, "weigh": m.weigh, "outer": m.outer, "grad": grad}
        | {"d_weights": d_weights, "starts": band_starts(m.bands, m.x.device), "dx": dx, "d_rows": d_rows}
        | {"normal_rows": normal_rows, "sums": sums, "bins": m.features.shape[2]}
        | m.sizes,
        m.constants | {"BN": at_once},
        (tile(8, 1, BH=sizes_at_once(m)[0][1], BC=32),),
        matrix=True,
    )
    launch(call, m.x.device)
    return dx, d_rows, sums.sum((0, 1)), normal_rows


def _of_features(m: Masks, grad: Tensor, weights: Tensor) -> Tensor:
    found, device, bins = m.new(*m.features.shape, dtype=m.features.dtype), m.x.device, 16
    rows, parts = m.features.shape[0] * m.features.shape[1], band_parts(m.bands, bins, device)
    call = Call(
        _band_masks_bwd_features_kernel,
        lambda t: (triton.cdiv(rows, t["BN"]), parts.shape[0]),
        {"grad": grad, "weights": weights, "starts": band_starts(m.bands, device), "parts": parts}
        | {"d_features": found, "rows": rows, "frames": m.x.shape[2], "sources": m.x.shape[1]}
        | {"bins": m.features.shape[2], "bands": m.sizes["bands"], "count": m.sizes["count"]},
        {"BB": bins, "FQ": triton.next_power_of_2(m.sizes["count"])},
        (tile(4, 1, BN=8), tile(8, 1, BN=16)),
    )
    launch(call, device)
    return found


def band_masks_backward(
    grad: Tensor, args: tuple[Any, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of the seven tensors where `need` asks for them, None for everything else.

    Needs memory for 3 * hidden + dim values of the products' type and 4 * features in float32 per row and band.
    """
    m = masks_of(args)
    if m is None:
        return None
    grad = grad.contiguous()
    h, weights = hidden(m)
    d_weights = _of_weights(m, grad)
    found: dict[int, Tensor | None] = {1: _of_features(m, grad, weights) if need[1] else None}
    if need[0] or need[2] or need[3]:
        found[0], d_rows, found[2], normal = _of_hidden(m, grad, d_weights, need[3])
        if normal is not None:
            found[3] = torch.einsum("rkc,rkd->kcd", normal, d_rows)
    if need[4]:
        found[4] = torch.einsum("rkh,rkm->khm", h, d_weights.to(m.dot))
    flat = grad.view(m.rows, -1)
    if need[5]:
        narrow, parts, at, band = flat.to(m.dot), [], 0, 0
        for width, n in runs(m.bands):
            own = narrow[:, 2 * at : 2 * (at + n * width)].view(m.rows, n, 2 * width)
            parts.append(torch.einsum("rnh,rnm->nhm", h[:, band : band + n], own).flatten())
            at, band = at + n * width, band + n
        found[5] = torch.cat(parts)
    if need[6]:
        found[6] = flat.sum(0, dtype=torch.float32)
    return wanted(found, args, need)
