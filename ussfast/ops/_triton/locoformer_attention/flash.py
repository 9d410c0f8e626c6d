"""locoformer_attention of long sequences: Triton kernels for the projection, and for the rest block by block."""

import triton
import triton.language as tl

from ussfast.ops._triton.locoformer_attention.parts import (
    angles,
    factor,
    load_rows,
    matrix,
    mix,
    normalise,
    places,
    projected_pair,
    store_rows,
)


@triton.jit
def _locoformer_attention_fwd_qkv_kernel(
    x, scratch, normals, qkv, cos, sin, rows, length, across, x_outer, x_middle, x_along, eps, heads,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr,
    DOT: tl.constexpr, PREC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Rotated queries and keys, and values: scratch is [3, heads, rows, 2 * HALF]; normals [rows, channels] or None."""
    CHANNELS: tl.constexpr = GROUPS * GROUP
    ROTATE: tl.constexpr = cos is not None
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    seen = row < rows
    at = places(row, length, across, x_outer, x_middle, x_along)
    normal = load_rows(x, at, seen, WIDTH, COUNT, GROUP, GROUPS)
    normal = normalise(normal, seen, eps, WIDTH, COUNT, GROUP, GROUPS).to(DOT)
    if normals is not None:
        cells = row.to(tl.int64)[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
        tl.store(normals + cells, normal, seen[:, None])
    c, s = angles(cos, sin, row % length, HALF)
    half = row.to(tl.int64)[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    head_size = tl.cast(rows, tl.int64) * (2 * HALF)
    for head in range(heads):
        weight = qkv + head * (6 * CHANNELS * HALF)
        to = scratch + head * head_size
        even, odd = projected_pair(normal, weight, c, s, ROTATE, HALF, DOT, PREC)
        tl.store(to + half, even, seen[:, None])
        tl.store(to + half + HALF, odd, seen[:, None])
        to += heads * head_size
        even, odd = projected_pair(normal, weight + 2 * CHANNELS * HALF, c, s, ROTATE, HALF, DOT, PREC)
        tl.store(to + half, even, seen[:, None])
        tl.store(to + half + HALF, odd, seen[:, None])
        to += heads * head_size
        v = tl.dot(normal, matrix(weight + 4 * CHANNELS * HALF, CHANNELS, 2 * HALF), input_precision=PREC)
        v = factor(v, DOT)
        full = row.to(tl.int64)[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
        tl.store(to + full, v, seen[:, None])


@triton.jit
def _locoformer_attention_fwd_flash_kernel(
    x, y, scratch, out, rows, length, across, x_outer, x_middle, x_along, y_outer, y_middle, y_along, heads,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """All heads of one block of queries; neighbouring programs share a sequence, whose keys then stay in the cache."""
    CHANNELS: tl.constexpr = GROUPS * GROUP
    HEAD: tl.constexpr = 2 * HALF
    blocks = tl.cdiv(length, ROWS)
    sequence = tl.program_id(0) // blocks
    first = (tl.program_id(0) - sequence * blocks) * ROWS
    query = first + tl.arange(0, ROWS)
    seen = query < length
    head_size = tl.cast(rows, tl.int64) * HEAD
    base = scratch + (sequence * length).to(tl.int64) * HEAD
    change = tl.zeros((ROWS, CHANNELS), tl.float32)
    for head in range(heads):
        q = tl.load(base + query[:, None] * HEAD + tl.arange(0, HEAD)[None, :], seen[:, None], 0.0)
        k, v = base + heads * head_size, base + 2 * heads * head_size
        mixed, total, largest = mix(q, k, v, length, DOT, PREC, KEYS)
        # The selection changes nothing that is stored, but without it sm_80 spills registers.
        mixed = (mixed / tl.where(seen, total, 1.0)[:, None]).to(DOT)
        change = tl.dot(mixed, matrix(out + head * HEAD * CHANNELS, HEAD, CHANNELS), change, input_precision=PREC)
        base += head_size
    row = sequence * length + query
    at = places(row, length, across, x_outer, x_middle, x_along)
    change += load_rows(x, at, seen, WIDTH, COUNT, GROUP, GROUPS)
    store_rows(y, places(row, length, across, y_outer, y_middle, y_along), seen, change, WIDTH, COUNT, GROUP, GROUPS)
