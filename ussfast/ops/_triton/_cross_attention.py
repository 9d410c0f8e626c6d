"""What forward and backward kernels of biased_cross_attention share: rows, the bias of a block, their arguments."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Tile, tile
from ussfast.ops._triton._launch import dot_types

LOG2_E = 1.4426950408889634
# Heads that are wider than this have no kernel.
WIDEST = 128


@triton.jit
def rows(x, index, count, stride, WIDTH: tl.constexpr, BLOCK_W: tl.constexpr):
    """[len(index), BLOCK_W] of a matrix with `count` rows of WIDTH values; zeros around it."""
    column = tl.arange(0, BLOCK_W)[None, :]
    row = index[:, None]
    return tl.load(x + row.to(tl.int64) * stride + column, (row < count) & (column < WIDTH), 0.0)


@triton.jit
def bias_block(bias, factor, query, key, queries, keys):
    """What is added to scores, in powers of two: slope * bias, -inf where a key is hidden or beyond the last.

    bias: of one head, or None. query and key are a column and a row, or a row and a column.
    """
    if bias is not None:
        value = tl.load(bias + (query * keys + key), (query < queries) & (key < keys), 0.0).to(tl.float32)
        # -inf stays out of products: a slope of 0 would make it NaN.
        added = tl.where(value == float("-inf"), value, value * factor)
    else:
        added = tl.where(query < queries, 0.0, 0.0)
    return tl.where(key < keys, added, float("-inf"))


@triton.jit
def slope_factor(slope, head):
    """The slope of the head, for scores in powers of two."""
    factor = 1.4426950408889634
    if slope is not None:
        factor *= tl.load(slope + head).to(tl.float32)
    return factor


def taken(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether there are kernels for them; places in the bias of one head are numbers of 32 bits."""
    exact = torch.float64 in (q.dtype, k.dtype, v.dtype)
    return not exact and q.shape[3] <= WIDEST and q.shape[1] * k.shape[1] < 1 << 31


def common(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, slope: Tensor | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants of every kernel. q, k and v may have any strides but that of their last axis."""
    width = q.shape[3]
    tensors = {"q": q, "k": k, "v": v}
    tensors = {name: t if t.stride(3) == 1 else t.contiguous() for name, t in tensors.items()}
    strides = {
        f"{name}_{axis}": t.stride(i) for name, t in tensors.items() for i, axis in enumerate(("item", "row", "head"))
    }
    if q.shape[0] == 1:
        strides["q_item"] = 0
    arguments = tensors | {
        "bias": None if bias is None else bias.contiguous(),
        "slope": None if slope is None else slope.contiguous(),
        "batch": k.shape[0],
        "queries": q.shape[1],
        "keys": k.shape[1],
        "heads": q.shape[2],
        "scale": LOG2_E * width**-0.5,
    }
    widest = torch.promote_types(torch.promote_types(q.dtype, k.dtype), v.dtype)
    dot, precision = dot_types(widest)
    constants = {"WIDTH": width, "BLOCK_W": max(16, triton.next_power_of_2(width)), "DOT": dot}
    return arguments | strides, constants | {"PRECISION": precision}


def tiles(
    arguments: dict[str, Any], sizes: tuple[tuple[int, ...], ...], names: tuple[str, ...], down: str = "BLOCK_Q"
) -> tuple[Tile, ...]:
    """Tiles of these blocks (and warps, stages), none larger than the queries, keys and items that there are.

    down: the block that warps share. Each takes 16 rows of a product; a warp too many would repeat another's work.
    """
    largest = {"BLOCK_Q": arguments["queries"], "BLOCK_K": arguments["keys"]}
    limit = {name: max(16, triton.next_power_of_2(n)) for name, n in largest.items()}
    limit["ITEMS"] = triton.next_power_of_2(arguments["batch"])
    found = []
    for *blocks, warps, stages in sizes:
        cut = {name: min(value, limit[name]) for name, value in zip(names, blocks, strict=True)}
        found.append(tile(min(warps, cut[down] // 16) if cut[down] < 64 else warps, stages, **cut))
    return tuple(dict.fromkeys(found))
