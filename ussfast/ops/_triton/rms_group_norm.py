"""Triton kernels of ussfast.ops.rms_group_norm, forward and backward."""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._launch import launch, wide

# Values per program. Groups hold only 8 to 32 channels, so one program takes many of them.
_TILE = 1024
# Channels, and programs that the gradient of the weight comes from: each adds up its own bins first.
_MOST_CHANNELS = 4096
_PROGRAMS = 1024


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


@triton.jit
def _rms_group_norm_bwd_kernel(
    grad, x, w, x_grad, w_grad, bins, groups, width, eps, per, WIDE: tl.constexpr, BINS: tl.constexpr,
    GROUPS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    group, column = tl.arange(0, GROUPS)[None, :, None], tl.arange(0, BLOCK)[None, None, :]
    channel, real = group * width + column, (group < groups) & (column < width)
    scale = tl.load(w + channel, real, 0.0).to(WIDE)
    total = tl.zeros((1, GROUPS, BLOCK), WIDE)
    for i in range(per):
        row = (program * per + i) * BINS + tl.arange(0, BINS)[:, None, None]
        at, mask = row * groups * width + channel, (row < bins) & real
        value = tl.load(x + at, mask, 0.0).to(WIDE)
        wanted = tl.load(grad + at, mask, 0.0).to(WIDE)
        rms = tl.sqrt(tl.sum(value * value, 2, keep_dims=True) / width)
        # Where a group is silent, or masked, the second part is zero whatever it is divided by.
        divisor = tl.where(rms + eps > 0, rms + eps, 1.0)
        unit = value / divisor
        along = tl.sum(wanted * scale * unit, 2, keep_dims=True) / (width * tl.where(rms > 0, rms, 1.0))
        if x_grad is not None:
            change = (wanted * scale - value * along) / divisor
            tl.store(x_grad + at, change.to(x_grad.dtype.element_ty), mask)
        total += tl.sum(wanted * unit, 0, keep_dims=True)
    if w_grad is not None:
        tl.store(w_grad + program * groups * width + channel, total, real)


def rms_group_norm_backward(
    grad: Tensor, args: tuple[Tensor, Tensor, int, float], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    x, weight, groups, eps = args
    channels = x.shape[-1]
    blocks = {"GROUPS": triton.next_power_of_2(groups), "BLOCK": triton.next_power_of_2(channels // groups)}
    if blocks["GROUPS"] * blocks["BLOCK"] > _MOST_CHANNELS or not x.numel():
        return None
    bins, at_once = x.numel() // channels, max(1, _TILE // (blocks["GROUPS"] * blocks["BLOCK"]))
    per = triton.cdiv(bins, at_once * _PROGRAMS)
    programs = triton.cdiv(bins, at_once * per)
    x_grad = x.new_empty(x.shape) if need[0] else None
    exact = torch.promote_types(x.dtype, torch.float32)
    w_grad = x.new_empty(programs, channels, dtype=exact) if need[1] else None
    call = Call(
        _rms_group_norm_bwd_kernel,
        lambda t: (programs,),
        {"grad": grad.contiguous(), "x": x.contiguous(), "w": weight.contiguous(), "x_grad": x_grad, "w_grad": w_grad}
        | {"bins": bins, "groups": groups, "width": channels // groups, "eps": eps, "per": per},
        blocks | {"WIDE": wide(x.dtype)},
        (tile(BINS=at_once),),
    )
    launch(call, x.device)
    return x_grad, None if w_grad is None else w_grad.sum(0).to(weight.dtype), None, None


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for channels, groups in ((64, 4), (63, 3)):
            x = torch.empty(2, 50, 61, channels, dtype=dtype, device="meta")
            arguments = x, x.new_empty(channels), groups, 1e-5
            yield f"{channels}/{groups}", rms_group_norm, arguments
            if dtype != torch.float64 and groups == 4:
                yield f"{channels}/{groups}, backward", rms_group_norm_backward, (x, arguments, (True, True))
