"""What the Triton kernels of the causal model's ops share: the norm of rows, products with matrices, sizes they take.

Channels are padded to a power of two, at least 16, which products need: what is beyond them is loaded as zeros.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_CHANNELS = 64
TORCH = {tl.float32: torch.float32, tl.bfloat16: torch.bfloat16, tl.float16: torch.float16}


@triton.jit
def inverse_rms(x, channels, eps):
    """1 / RMS of each row [rows, 1]; 0 where that has no limit, so that rows of zeros stay zeros."""
    power = tl.sum(x * x, 1, keep_dims=True) / channels + eps
    return tl.where(power == 0, 0.0, 1 / tl.sqrt(tl.where(power == 0, 1.0, power)))


@triton.jit
def norm_gradient(d_normal, x, inverse, scale, channels):
    """Gradient of x, given that of x * inverse * scale, where inverse is x's `inverse_rms`."""
    d_unit, unit = d_normal * scale, x * inverse
    return inverse * (d_unit - unit * (tl.sum(d_unit * unit, 1, keep_dims=True) / channels))


@triton.jit
def block(matrix, row0, rows, column0, columns, stride, ROWS: tl.constexpr, COLUMNS: tl.constexpr, DOT: tl.constexpr):
    """[ROWS, COLUMNS] of a matrix with `stride` from row to row, from (row0, column0) on: `rows` and `columns` of it,
    zeros in the padding."""
    r, c = tl.arange(0, ROWS)[:, None], tl.arange(0, COLUMNS)[None, :]
    return tl.load(matrix + (row0 + r) * stride + column0 + c, (r < rows) & (c < columns), 0.0).to(DOT)


@triton.jit
def vector(values, first, count, SIZE: tl.constexpr):
    """[1, SIZE] in float32, zeros in the padding."""
    at = tl.arange(0, SIZE)[None, :]
    return tl.load(values + first + at, at < count, 0.0).to(tl.float32)


@triton.jit
def shifted(x, by):
    """Row i of the result is row i + by of x, or the last one."""
    row = tl.minimum(tl.arange(0, x.shape[0]) + by, x.shape[0] - 1)
    return tl.gather(x, tl.broadcast_to(row[:, None], x.shape), 0)


def pad(size: int) -> int:
    return max(16, triton.next_power_of_2(size))


def rows_of(x: Tensor) -> Tensor:
    """x with channels next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


def takes(x: Tensor, *others: Tensor | None) -> bool:
    """Whether kernels take x: its type, channels, size and strides."""
    wide = any(t is not None and t.dtype == torch.float64 for t in (x, *others))
    small = x.shape[-1] <= MOST_CHANNELS and 0 < x.numel() < 2**29
    return small and not wide


def dense(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.contiguous() for t in tensors)


def wanted(found: dict[int, Tensor | None], args: tuple[Any, ...], need: tuple[bool, ...]) -> tuple[Tensor | None, ...]:
    """Gradients in the arguments' places, in their types and shapes; `found` has them by place."""
    out: list[Tensor | None] = []
    for i, (value, n) in enumerate(zip(args, need, strict=True)):
        gradient = found.get(i)
        out.append(gradient.view(value.shape).to(value.dtype) if n and gradient is not None else None)
    return tuple(out)
