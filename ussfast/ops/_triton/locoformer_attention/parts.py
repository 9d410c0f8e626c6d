"""What the Triton kernels of locoformer_attention share: addresses, norm, rotation, and the softmax.

Rows are the positions of all sequences one after the other: row = sequence * length + position. Weights come laid out
by `layout`: even and odd members of the rotated channel pairs apart, norm and scale folded in.
"""

import triton
import triton.language as tl


@triton.jit
def places(row, length, across, outer, middle, along):
    """Offsets of rows in a [batch, frames, bands, channels] tensor, as 64 bits: large batches need them."""
    sequence = row // length
    batch = sequence // across
    other = (sequence - batch * across).to(tl.int64)
    return batch.to(tl.int64) * outer + other * middle + (row - sequence * length).to(tl.int64) * along


@triton.jit
def channels_of(WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr):
    """(channel, whether it exists) of the padded channels: GROUPS groups of GROUP for COUNT of WIDTH."""
    index = tl.arange(0, GROUPS * GROUP)
    group, member = index // GROUP, index % GROUP
    return group * WIDTH + member, (group < COUNT) & (member < WIDTH)


@triton.jit
def load_rows(
    x, at, seen, WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr
):  # fmt: skip
    """[rows, padded channels] in float32, zero where there is nothing."""
    channel, exists = channels_of(WIDTH, COUNT, GROUP, GROUPS)
    return tl.load(x + at[:, None] + channel[None, :], seen[:, None] & exists[None, :], 0.0).to(tl.float32)


@triton.jit
def store_rows(
    y, at, seen, value, WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr
):  # fmt: skip
    channel, exists = channels_of(WIDTH, COUNT, GROUP, GROUPS)
    inside = seen[:, None] & exists[None, :]
    tl.store(y + at[:, None] + channel[None, :], value.to(y.dtype.element_ty), inside)


@triton.jit
def normalise(
    value, seen, eps, WIDTH: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr, GROUPS: tl.constexpr
):  # fmt: skip
    """RMSGroupNorm of loaded rows without its weight, which is part of the projection."""
    parts = tl.reshape(value, (value.shape[0], GROUPS, GROUP))
    rms = tl.sqrt(tl.sum(parts * parts, 2) / WIDTH) + eps
    normal = tl.reshape(parts / rms[:, :, None], value.shape)
    channel, exists = channels_of(WIDTH, COUNT, GROUP, GROUPS)
    return tl.where(seen[:, None] & exists[None, :], normal, 0.0)  # eps may be 0, and nothing divided by it is NaN


@triton.jit
def matrix(pointer, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A contiguous [ROWS, COLUMNS] matrix without an edge."""
    return tl.load(pointer + tl.arange(0, ROWS)[:, None] * COLUMNS + tl.arange(0, COLUMNS)[None, :])


@triton.jit
def angles(cos, sin, position, HALF: tl.constexpr):
    """Cosine and sine of rows' positions, [rows, HALF]; without rotation anything, as nobody looks."""
    if cos is None:
        return position, position
    else:  # Triton compiles what follows a return, but not a branch that is never taken
        at = position[:, None] * HALF + tl.arange(0, HALF)[None, :]
        return tl.load(cos + at), tl.load(sin + at)


@triton.jit
def factor(x, DOT: tl.constexpr):
    """Queries, keys and values in the type of products' factors; float16 at the end of its range, not infinite."""
    if DOT == tl.float16:
        x = tl.clamp(x, -65504.0, 65504.0, propagate_nan=tl.PropagateNan.ALL)
    return x.to(DOT)


@triton.jit
def projected_pair(
    normal, weight, c, s, ROTATE: tl.constexpr, HALF: tl.constexpr, DOT: tl.constexpr, PREC: tl.constexpr
):  # fmt: skip
    """Even and odd halves of queries or keys of one head, rotated: two [rows, HALF]."""
    channels: tl.constexpr = normal.shape[1]
    even = tl.dot(normal, matrix(weight, channels, HALF), input_precision=PREC)
    odd = tl.dot(normal, matrix(weight + channels * HALF, channels, HALF), input_precision=PREC)
    if ROTATE:
        even, odd = even * c - odd * s, odd * c + even * s
    return factor(even, DOT), factor(odd, DOT)


@triton.jit
def mix(
    q, k, v, length, DOT: tl.constexpr, PREC: tl.constexpr, BK: tl.constexpr
):  # fmt: skip
    """softmax(q k^T) v of one block of queries, one block of keys at a time; q carries scale and log2(e).

    Returns [queries, head] not yet divided by the sum, the sum, and the largest score, of powers of two.
    """
    WIDTH: tl.constexpr = q.shape[1]
    column = tl.arange(0, WIDTH)[None, :]
    largest = tl.full((q.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((q.shape[0],), tl.float32)
    mixed = tl.zeros(q.shape, tl.float32)
    for begin in range(0, length, BK):
        key = begin + tl.arange(0, BK)
        inside = key < length
        keys = tl.load(k + key[:, None] * WIDTH + column, inside[:, None], 0.0)
        values = tl.load(v + key[:, None] * WIDTH + column, inside[:, None], 0.0)
        scores = tl.where(inside[None, :], tl.dot(q, tl.trans(keys), input_precision=PREC), float("-inf"))
        above = tl.maximum(largest, tl.max(scores, 1))
        weights = tl.exp2(scores - above[:, None])
        shrink = tl.exp2(largest - above)
        total = total * shrink + tl.sum(weights, 1)
        mixed = tl.dot(weights.to(DOT), values, mixed * shrink[:, None], input_precision=PREC)
        largest = above
    return mixed, total, largest
