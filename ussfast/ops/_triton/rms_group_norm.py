"""Triton kernel of ussfast.ops.rms_group_norm."""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._launch import Call, launch, tile, wide

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


def rms_group_norm(x: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    x, weight, width = x.contiguous(), weight.contiguous(), x.shape[-1] // groups
    y = torch.empty_like(x)
    if x.numel():
        rows, block = x.numel() // width, triton.next_power_of_2(width)
        call = Call(
            _rms_group_norm_fwd_kernel,
            lambda t: (triton.cdiv(rows, t["ROWS"]),),
            {"x": x, "w": weight, "y": y, "rows": rows, "groups": groups, "width": width, "eps": eps},
            {"WIDE": wide(x.dtype), "BLOCK": block},
            (tile(ROWS=max(1, _TILE // block)),),
        )
        launch(call, x.device)
    return y


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for channels, groups in ((64, 4), (63, 3)):
            x = torch.empty(2, 50, 61, channels, dtype=dtype, device="meta")
            yield f"{channels}/{groups}", rms_group_norm, (x, x.new_empty(channels), groups, 1e-5)
