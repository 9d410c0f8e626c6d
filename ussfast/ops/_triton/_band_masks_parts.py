"""What both passes of band_masks have in common in Triton: the hidden layer of each band, and sizes.

Rows are [batch, sources, frames] in this order. `hidden` keeps, by row and band, what follows from the token alone.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._causal_parts import MOST_CHANNELS, TORCH, block, dense, inverse_rms, pad, vector
from ussfast.ops._triton._launch import capability, dot_types, launch

MOST_FEATURES = 32


@triton.jit
def gated(normal, w1, h0, hidden, dim, CP: tl.constexpr, BH: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr):
    """Values and gates of BH hidden units from h0 on; w1: the band's matrix [dim, 2 * hidden]."""
    weight = block(w1, 0, dim, h0, hidden - h0, 2 * hidden, CP, BH, DOT)
    value = tl.dot(normal, weight, input_precision=PRECISION)
    weight = block(w1, 0, dim, hidden + h0, hidden - h0, 2 * hidden, CP, BH, DOT)
    return value, tl.dot(normal, weight, input_precision=PRECISION)


@triton.jit
def tokens(x, row, rows, band, bands, dim, BN: tl.constexpr, CP: tl.constexpr):
    """[BN, CP] in float32: a band's token in rows from `row` on; x is contiguous."""
    start = x + (row.to(tl.int64) * bands + band) * dim
    return block(start, 0, rows - row, 0, dim, bands * dim, BN, CP, tl.float32)


@triton.jit
def _band_masks_fwd_hidden_kernel(
    x, gamma, inner, weigh, hidden_rows, weights, rows, bands, dim, hidden, count, eps,
    CP: tl.constexpr, FP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    # hidden_rows [rows, bands, hidden]; weights [rows, bands, 2 * count] in float32; count: features of a bin.
    row, band = tl.program_id(0) * BN, tl.program_id(1)
    here = tokens(x, row, rows, band, bands, dim, BN, CP)
    normal = (here * inverse_rms(here, dim, eps) * vector(gamma, 0, dim, CP)).to(DOT)
    w1 = inner + band.to(tl.int64) * dim * 2 * hidden
    w2 = weigh + band.to(tl.int64) * hidden * 2 * count
    r = row + tl.arange(0, BN)[:, None]
    place = r.to(tl.int64) * bands + band
    out = tl.zeros((BN, FP), tl.float32)
    for h0 in range(0, hidden, BH):
        value, gate = gated(normal, w1, h0, hidden, dim, CP, BH, DOT, PRECISION)
        h = (value * gate * tl.sigmoid(gate)).to(DOT)
        unit = h0 + tl.arange(0, BH)[None, :]
        tl.store(hidden_rows + place * hidden + unit, h, (r < rows) & (unit < hidden))
        weight = block(w2, h0, hidden - h0, 0, 2 * count, 2 * count, BH, FP, DOT)
        out = tl.dot(h, weight, out, input_precision=PRECISION)
    f = tl.arange(0, FP)[None, :]
    tl.store(weights + place * 2 * count + f, out, (r < rows) & (f < 2 * count))


@dataclass(frozen=True)
class Masks:
    """The arguments of one call, contiguous, with sizes and the kernels' constants."""

    x: Tensor
    features: Tensor
    gamma: Tensor
    inner: Tensor
    weigh: Tensor
    outer: Tensor
    bias: Tensor
    bands: list[int]
    sizes: dict[str, Any]
    constants: dict[str, Any]

    @property
    def rows(self) -> int:
        return self.sizes["rows"]

    @property
    def dot(self) -> torch.dtype:
        return TORCH[self.constants["DOT"]]

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.x.device)


def masks_of(args: tuple[Any, ...]) -> Masks | None:
    """What the kernels need to know, or None where the reference has to do it."""
    x, features, gamma, inner, weigh, outer, bias, bands, eps, precision = args
    wide = any(t.dtype == torch.float64 for t in args[:7])
    fits = x.shape[4] <= MOST_CHANNELS and features.shape[3] <= MOST_FEATURES
    largest = max(x.numel(), features.numel(), 2 * x.shape[0] * x.shape[1] * features.shape[1] * features.shape[2])
    if wide or not fits or not 0 < x.numel() or largest >= 2**31:
        return None
    dot, product = dot_types(x.dtype, precision)
    sizes = {"rows": x.shape[0] * x.shape[1] * x.shape[2], "bands": len(bands), "dim": x.shape[4]}
    sizes |= {"hidden": weigh.shape[1], "count": features.shape[3]}
    constants = {"CP": pad(x.shape[4]), "FP": pad(2 * features.shape[3]), "DOT": dot, "PRECISION": product}
    gamma, inner, weigh, outer, bias = dense(gamma, inner, weigh, outer, bias)
    sizes |= {"eps": eps}
    return Masks(x.contiguous(), features.contiguous(), gamma, inner, weigh, outer, bias, bands, sizes, constants)


def hidden(m: Masks) -> tuple[Tensor, Tensor]:
    """Hidden units [rows, bands, hidden] in the products' type and weights [rows, bands, 2 * features] in float32."""
    bands, units, count = m.sizes["bands"], m.sizes["hidden"], m.sizes["count"]
    h, weights = m.new(m.rows, bands, units, dtype=m.dot), m.new(m.rows, bands, 2 * count)
    call = Call(
        _band_masks_fwd_hidden_kernel,
        lambda t: (triton.cdiv(m.rows, t["BN"]), bands),
        {"x": m.x, "gamma": m.gamma, "inner": m.inner, "weigh": m.weigh, "hidden_rows": h, "weights": weights}
        | m.sizes,
        m.constants,
        tuple(tile(8, 1, BN=n, BH=b) for n, b in sizes_at_once(m)),
        matrix=True,
    )
    launch(call, m.x.device)
    return h, weights


def sizes_at_once(m: Masks) -> tuple[tuple[int, int], ...]:
    """Rows and hidden units of a program; products of float32 need registers for parts of their factors."""
    if m.rows <= 16:
        return ((16, 32),)
    if m.constants["DOT"] == tl.float32:
        return (16, 32), (32, 16)
    return ((64, 32), (32, 32)) if capability(m.x) in (90, 100) else ((32, 32),)
