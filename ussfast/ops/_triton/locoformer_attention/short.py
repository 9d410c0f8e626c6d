"""locoformer_attention of short sequences: one Triton kernel, several whole sequences per program."""

import triton
import triton.language as tl

from ussfast.ops._triton.locoformer_attention.parts import (
    angles,
    factor,
    load_rows,
    matrix,
    normalise,
    places,
    projected_pair,
    store_rows,
)


@triton.jit
def _locoformer_attention_fwd_short_kernel(
    x, y, qkv, out, cos, sin, rows, length, across, x_outer, x_middle, x_along, y_outer, y_middle, y_along, eps, heads,
    WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr,
    HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    CHANNELS: tl.constexpr = GROUPS * GROUP
    ROTATE: tl.constexpr = cos is not None
    index = tl.arange(0, ROWS)
    whole = ROWS // length * length
    row = tl.program_id(0) * whole + index
    seen = (index < whole) & (row < rows)
    at = places(row, length, across, x_outer, x_middle, x_along)
    change = load_rows(x, at, seen, WIDTH, COUNT, GROUP, GROUPS)
    normal = normalise(change, seen, eps, WIDTH, COUNT, GROUP, GROUPS).to(DOT)
    c, s = angles(cos, sin, index % length, HALF)
    # Rows beyond the last whole sequence see each other, so that their softmax is not empty; they are not stored.
    visible = (index // length)[:, None] == (index // length)[None, :]
    for head in range(heads):
        weight = qkv + head * (6 * CHANNELS * HALF)
        q_even, q_odd = projected_pair(normal, weight, c, s, ROTATE, HALF, DOT, PREC)
        k_even, k_odd = projected_pair(normal, weight + 2 * CHANNELS * HALF, c, s, ROTATE, HALF, DOT, PREC)
        scores = tl.dot(q_even, tl.trans(k_even), input_precision=PREC)
        scores = tl.dot(q_odd, tl.trans(k_odd), scores, input_precision=PREC)
        scores = tl.where(visible, scores, float("-inf"))
        weights = tl.exp2(scores - tl.max(scores, 1)[:, None])
        v = tl.dot(normal, matrix(weight + 4 * CHANNELS * HALF, CHANNELS, 2 * HALF), input_precision=PREC)
        v = factor(v, DOT)
        mixed = tl.dot(weights.to(DOT), v, input_precision=PREC) / tl.sum(weights, 1)[:, None]
        back_in = matrix(out + head * (2 * HALF * CHANNELS), 2 * HALF, CHANNELS)
        change = tl.dot(mixed.to(DOT), back_in, change, input_precision=PREC)
    store_rows(y, places(row, length, across, y_outer, y_middle, y_along), seen, change, WIDTH, COUNT, GROUP, GROUPS)
