"""Backward pass of locoformer_attention as Triton kernels, one block of queries or keys of one head per program.

Tensors per head are [heads, rows, 2 * HALF] with even and odd members of the channel pairs apart. Gradients are those
of the laid out weights' results: queries carry scale and log2(e), so scores are powers of two.
"""

import triton
import triton.language as tl

from ussfast.ops._triton.locoformer_attention.parts import (
    angles,
    load_rows,
    matrix,
    mix,
    places,
    store_rows,
)

LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _program(length, heads, SIZE: tl.constexpr):
    """(sequence, head, first position of the block) of this program; blocks of a sequence are neighbours."""
    blocks = tl.cdiv(length, SIZE)
    one = tl.program_id(0) // blocks
    return one // heads, one % heads, (tl.program_id(0) - one * blocks) * SIZE


@triton.jit
def _block(pointer, position, length, HEAD: tl.constexpr):
    """[positions, HEAD] of one sequence and head, zero beyond its end."""
    at = position[:, None] * HEAD + tl.arange(0, HEAD)[None, :]
    return tl.load(pointer + at, (position < length)[:, None], 0.0)


@triton.jit
def _keep(pointer, position, length, value, HEAD: tl.constexpr):
    at = position[:, None] * HEAD + tl.arange(0, HEAD)[None, :]
    tl.store(pointer + at, value.to(pointer.dtype.element_ty), (position < length)[:, None])


@triton.jit
def _locoformer_attention_bwd_mixed_kernel(
    grad, scratch, out, mixed, d_mixed, spread, delta, rows, length, across, g_outer, g_middle, g_along, heads,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """The forward pass again, for the logarithm of each softmax's sum (spread), and the mixed values' gradient.

    delta is the sum of gradient times mixed values; mixed stays None unless the weights' gradients want it.
    """
    CHANNELS: tl.constexpr = GROUPS * GROUP
    HEAD: tl.constexpr = 2 * HALF
    sequence, head, first = _program(length, heads, ROWS)
    query = first + tl.arange(0, ROWS)
    seen = query < length
    head_size = tl.cast(rows, tl.int64)
    lines = head * head_size + sequence * length
    q = _block(scratch + lines * HEAD, query, length, HEAD)
    k = scratch + (heads * head_size + lines) * HEAD
    v = scratch + (2 * heads * head_size + lines) * HEAD
    value, total, largest = mix(q, k, v, length, DOT, PREC, KEYS)
    value = value / total[:, None]
    at = places(sequence * length + query, length, across, g_outer, g_middle, g_along)
    change = load_rows(grad, at, seen, WIDTH, COUNT, GROUP, GROUPS).to(DOT)
    d_value = tl.dot(change, tl.trans(matrix(out + head * HEAD * CHANNELS, HEAD, CHANNELS)), input_precision=PREC)
    tl.store(spread + lines + query, largest + tl.log2(total), seen)
    tl.store(delta + lines + query, tl.sum(value * d_value, 1), seen)
    _keep(d_mixed + lines * HEAD, query, length, d_value, HEAD)
    if mixed is not None:
        _keep(mixed + lines * HEAD, query, length, value, HEAD)


@triton.jit
def _locoformer_attention_bwd_keys_kernel(
    scratch, d_mixed, spread, delta, gradients, rows, length, heads,
    HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    """Gradients of a block of keys and values, of all queries; KEYS of these, ROWS of those at a time."""
    HEAD: tl.constexpr = 2 * HALF
    sequence, head, first = _program(length, heads, KEYS)
    key = first + tl.arange(0, KEYS)
    head_size = tl.cast(rows, tl.int64)
    lines = head * head_size + sequence * length
    k_at, v_at = (heads * head_size + lines) * HEAD, (2 * heads * head_size + lines) * HEAD
    k, v = _block(scratch + k_at, key, length, HEAD), _block(scratch + v_at, key, length, HEAD)
    dk, dv = tl.zeros((KEYS, HEAD), tl.float32), tl.zeros((KEYS, HEAD), tl.float32)
    for begin in range(0, length, ROWS):
        query = begin + tl.arange(0, ROWS)
        q = _block(scratch + lines * HEAD, query, length, HEAD)
        d_value = _block(d_mixed + lines * HEAD, query, length, HEAD)
        # Queries beyond the end have no gradient, so whatever weights they get here adds nothing.
        weights = tl.dot(k, tl.trans(q), input_precision=PREC)
        weights = tl.exp2(weights - tl.load(spread + lines + query, query < length, 0.0)[None, :])
        dv = tl.dot(weights.to(DOT), d_value, dv, input_precision=PREC)
        d_weights = tl.dot(v, tl.trans(d_value), input_precision=PREC)
        d_scores = weights * (d_weights - tl.load(delta + lines + query, query < length, 0.0)[None, :])
        dk = tl.dot(d_scores.to(DOT), q, dk, input_precision=PREC)
    _keep(gradients + k_at, key, length, dk * LN2, HEAD)
    _keep(gradients + v_at, key, length, dv, HEAD)


@triton.jit
def _locoformer_attention_bwd_queries_kernel(
    scratch, d_mixed, spread, delta, gradients, rows, length, heads,
    HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
    ROWS: tl.constexpr, KEYS: tl.constexpr,
):  # fmt: skip
    HEAD: tl.constexpr = 2 * HALF
    sequence, head, first = _program(length, heads, ROWS)
    query = first + tl.arange(0, ROWS)
    head_size = tl.cast(rows, tl.int64)
    lines = head * head_size + sequence * length
    k_from, v_from = scratch + (heads * head_size + lines) * HEAD, scratch + (2 * heads * head_size + lines) * HEAD
    q = _block(scratch + lines * HEAD, query, length, HEAD)
    d_value = _block(d_mixed + lines * HEAD, query, length, HEAD)
    largest = tl.load(spread + lines + query, query < length, 0.0)
    middle = tl.load(delta + lines + query, query < length, 0.0)
    dq = tl.zeros((ROWS, HEAD), tl.float32)
    for begin in range(0, length, KEYS):
        key = begin + tl.arange(0, KEYS)
        k, v = _block(k_from, key, length, HEAD), _block(v_from, key, length, HEAD)
        weights = tl.exp2(tl.dot(q, tl.trans(k), input_precision=PREC) - largest[:, None])
        weights = tl.where((key < length)[None, :], weights, 0.0)
        d_scores = weights * (tl.dot(d_value, tl.trans(v), input_precision=PREC) - middle[:, None])
        dq = tl.dot(d_scores.to(DOT), k, dq, input_precision=PREC)
    _keep(gradients + lines * HEAD, query, length, dq * LN2, HEAD)


@triton.jit
def _turned_back(
    pointer, weight, change, c, s, seen, ROTATE: tl.constexpr, KEEP: tl.constexpr, HALF: tl.constexpr,
    CHANNELS: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
):  # fmt: skip
    """change plus what rotated queries' or keys' gradient means for the normalised rows; KEEP stores it unrotated."""
    even, odd = tl.load(pointer, seen[:, None], 0.0), tl.load(pointer + HALF, seen[:, None], 0.0)
    if ROTATE:
        wide_even, wide_odd = even.to(tl.float32), odd.to(tl.float32)
        even, odd = (wide_even * c + wide_odd * s).to(DOT), (wide_odd * c - wide_even * s).to(DOT)
        if KEEP:
            tl.store(pointer, even, seen[:, None])
            tl.store(pointer + HALF, odd, seen[:, None])
    change = tl.dot(even, tl.trans(matrix(weight, CHANNELS, HALF)), change, input_precision=PREC)
    weight += CHANNELS * HALF
    return tl.dot(odd, tl.trans(matrix(weight, CHANNELS, HALF)), change, input_precision=PREC)


@triton.jit
def _locoformer_attention_bwd_input_kernel(
    x, grad, dx, gradients, qkv, cos, sin, rows, length, across, x_outer, x_middle, x_along, g_outer, g_middle,
    g_along, y_outer, y_middle, y_along, eps, heads, KEEP: tl.constexpr, WIDTH: tl.constexpr, COUNT: tl.constexpr,
    GROUP: tl.constexpr, GROUPS: tl.constexpr, HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr,
    ROWS: tl.constexpr,
):  # fmt: skip
    """Rotation, projection, norm and residual backwards; KEEP leaves unrotated gradients for those of the weights."""
    CHANNELS: tl.constexpr = GROUPS * GROUP
    ROTATE: tl.constexpr = cos is not None
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    seen = row < rows
    c, s = angles(cos, sin, row % length, HALF)
    half = row.to(tl.int64)[:, None] * (2 * HALF) + tl.arange(0, HALF)[None, :]
    full = row.to(tl.int64)[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    head_size = tl.cast(rows, tl.int64) * (2 * HALF)
    change = tl.zeros((ROWS, CHANNELS), tl.float32)
    for head in range(heads):
        weight = qkv + head * (6 * CHANNELS * HALF)
        part = gradients + head * head_size
        change = _turned_back(part + half, weight, change, c, s, seen, ROTATE, KEEP, HALF, CHANNELS, DOT, PREC)
        part += heads * head_size
        weight += 2 * CHANNELS * HALF
        change = _turned_back(part + half, weight, change, c, s, seen, ROTATE, KEEP, HALF, CHANNELS, DOT, PREC)
        dv = tl.load(part + heads * head_size + full, seen[:, None], 0.0)
        weight += 2 * CHANNELS * HALF
        change = tl.dot(dv, tl.trans(matrix(weight, CHANNELS, 2 * HALF)), change, input_precision=PREC)
    value = load_rows(x, places(row, length, across, x_outer, x_middle, x_along), seen, WIDTH, COUNT, GROUP, GROUPS)
    parts = tl.reshape(value, (ROWS, GROUPS, GROUP))
    d_parts = tl.reshape(change, (ROWS, GROUPS, GROUP))
    rms = tl.sqrt(tl.sum(parts * parts, 2) / WIDTH)
    scale = 1.0 / (rms + eps)
    # A silent group has parts of 0, and what follows from them is 0 whatever it is divided by.
    toward = tl.sum(parts * d_parts, 2) * scale * scale / (tl.where(rms > 0, rms, 1.0) * WIDTH)
    d_value = tl.reshape(d_parts * scale[:, :, None] - parts * toward[:, :, None], (ROWS, CHANNELS))
    at = places(row, length, across, g_outer, g_middle, g_along)
    d_value += load_rows(grad, at, seen, WIDTH, COUNT, GROUP, GROUPS)
    store_rows(dx, places(row, length, across, y_outer, y_middle, y_along), seen, d_value, WIDTH, COUNT, GROUP, GROUPS)
