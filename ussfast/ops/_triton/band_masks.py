"""Triton kernels of ussfast.ops.band_masks: one for the hidden layer of every band, one for the masks of its bins.

The backward pass: _band_masks_backward.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._band_masks_backward import band_masks_backward
from ussfast.ops._triton._band_masks_parts import Masks, hidden, masks_of
from ussfast.ops._triton._bands import band_parts, band_starts
from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._causal_parts import block
from ussfast.ops._triton._launch import launch
from ussfast.ops._triton.band_tokens import BANDS
from ussfast.ops.band_masks import reference

__all__ = ["band_masks", "band_masks_backward", "specimens"]

# Bins of a program: the narrowest bands have 4, and products need 16 columns.
_BINS = 16


@triton.jit
def _band_masks_fwd_kernel(
    hidden_rows, weights, features, outer, bias, starts, parts, y, rows, frames, of_item, bins, bands, hidden, count,
    DOT: tl.constexpr, PRECISION: tl.constexpr, BB: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr,
):  # fmt: skip
    # of_item: rows of an item, sources * frames.
    row = tl.program_id(0) * BN
    band, first = tl.load(parts + 2 * tl.program_id(1)), tl.load(parts + 2 * tl.program_id(1) + 1)
    start, end = tl.load(starts + band), tl.load(starts + band + 1)
    # A band's matrix is [hidden, 2 * width]; its columns are real and imaginary parts in turn.
    stride = 2 * (end - start)
    matrix = outer + start.to(tl.int64) * 2 * hidden
    column = 2 * (first - start)
    h_rows = hidden_rows + (row.to(tl.int64) * bands + band) * hidden
    out = tl.zeros((BN, 2 * BB), tl.float32)
    for h0 in range(0, hidden, BH):
        h = block(h_rows, 0, rows - row, h0, hidden - h0, bands * hidden, BN, BH, DOT)
        weight = block(matrix, h0, hidden - h0, column, stride - column, stride, BH, 2 * BB, DOT)
        out = tl.dot(h, weight, out, input_precision=PRECISION)
    re, im = tl.split(tl.reshape(out, (BN, BB, 2)))
    r, bin_ = row + tl.arange(0, BN)[:, None], first + tl.arange(0, BB)[None, :]
    real = (r < rows) & (bin_ < end)
    frame = r // of_item * frames + r % frames
    of_bin = features + (frame.to(tl.int64) * bins + bin_) * count
    of_row = weights + (r.to(tl.int64) * bands + band) * 2 * count
    for f in range(count):
        value = tl.load(of_bin + f, real, 0.0).to(tl.float32)
        re += value * tl.load(of_row + f, r < rows, 0.0)
        im += value * tl.load(of_row + count + f, r < rows, 0.0)
    re += tl.load(bias + 2 * bin_, bin_ < end, 0.0).to(tl.float32)
    im += tl.load(bias + 2 * bin_ + 1, bin_ < end, 0.0).to(tl.float32)
    pair = tl.reshape(tl.join(re, im), (BN, 2 * BB))
    place = 2 * first + tl.arange(0, 2 * BB)[None, :]
    at = r.to(tl.int64) * 2 * bins + place
    tl.store(y + at, pair.to(y.dtype.element_ty), (r < rows) & (place < 2 * end))


def _masks(m: Masks, h: Tensor, weights: Tensor) -> Tensor:
    batch, sources, frames = m.x.shape[:3]
    bins, device = m.features.shape[2], m.x.device
    y = m.new(batch, sources, frames, bins, 2, dtype=m.x.dtype)
    parts = band_parts(m.bands, _BINS, device)
    arguments: dict[str, Any] = {
        "hidden_rows": h,
        "weights": weights,
        "features": m.features,
        "outer": m.outer,
        "bias": m.bias,
    }
    arguments |= {"starts": band_starts(m.bands, device), "parts": parts, "y": y, "frames": frames, "bins": bins}
    arguments |= {name: m.sizes[name] for name in ("rows", "bands", "hidden", "count")}
    few = m.rows <= 16
    call = Call(
        _band_masks_fwd_kernel,
        lambda t: (triton.cdiv(m.rows, t["BN"]), parts.shape[0]),
        arguments | {"of_item": sources * frames},
        {"BB": _BINS} | {name: m.constants[name] for name in ("DOT", "PRECISION")},
        (tile(4, 2, BN=16, BH=32),) if few else (tile(4, 2, BN=64, BH=32), tile(4, 2, BN=32, BH=32)),
        matrix=True,
    )
    launch(call, device)
    return y


def band_masks(*args: Any) -> Tensor:
    m = masks_of(args)
    return reference(*args).contiguous() if m is None else _masks(m, *hidden(m))


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the model with two prompts, and one frame of it."""
    bins, count = sum(BANDS), len(BANDS)
    for precision in ("bfloat16", "float32"):
        for frames in (376, 1):
            x = torch.empty(4, 2, frames, count, 64, device="meta")
            new = x.new_empty
            weights = new(64), new(count, 64, 256), new(count, 128, 24), new(2 * bins * 128), new(2 * bins)
            args = x, new(4, frames, bins, 12), *weights, BANDS, 1e-5, precision
            yield f"{frames} frames, {precision}", band_masks, args
            if frames > 1:
                grad, need = new(4, 2, frames, bins, 2), (*[True] * 7, False, False, False)
                yield f"gradients, {precision}", band_masks_backward, (grad, args, need)
