"""Triton kernel of ussfast.ops.rms_group_norm."""

import torch
import triton
import triton.language as tl
from torch import Tensor

# Values per program. Groups hold only 8 to 32 channels, so one program takes many of them.
_TILE = 1024


@triton.jit
def _rms_group_norm_fwd_kernel(
    x, w, y, rows, groups, width, eps, WIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):
    first = tl.program_id(0).to(tl.int64) * ROWS
    index = tl.arange(0, ROWS)[:, None]
    row, column = first + index, tl.arange(0, BLOCK)[None, :]
    # 64-bit remainders are slow subroutines on a GPU: one per program, the others in 32 bits.
    group = ((first % groups).to(tl.int32) + index) % groups
    mask = (row < rows) & (column < width)
    at = row * width + column
    value = tl.load(x + at, mask, 0.0).to(WIDE)
    scale = tl.load(w + group * width + column, mask, 0.0).to(WIDE)
    rms = tl.sqrt(tl.sum(value * value, 1) / width)[:, None]
    # Masked lanes divide zero by eps or, for eps 0, by zero: harmless, they are not stored.
    tl.store(y + at, (value / (rms + eps) * scale).to(y.dtype.element_ty), mask)


def launch_options(width: int, dtype: torch.dtype) -> dict:
    """Compile-time arguments for groups of this width: one row of the tile per group."""
    block = triton.next_power_of_2(width)
    wide = tl.float64 if dtype == torch.float64 else tl.float32
    return {"WIDE": wide, "ROWS": max(1, _TILE // block), "BLOCK": block}


def rms_group_norm(x: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    x, weight, width = x.contiguous(), weight.contiguous(), x.shape[-1] // groups
    y = torch.empty_like(x)
    if not x.numel():
        return y
    rows, options = x.numel() // width, launch_options(width, x.dtype)
    grid = (triton.cdiv(rows, options["ROWS"]),)
    with torch.cuda.device_of(x):
        _rms_group_norm_fwd_kernel[grid](x, weight, y, rows, groups, width, eps, **options)
    return y
