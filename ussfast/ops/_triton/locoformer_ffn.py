"""Triton kernels of ussfast.ops.locoformer_ffn: one per pass, nothing but x, weights and results in global memory.

How rows and columns are numbered: _locoformer_ffn_parts.py. The backward pass: _locoformer_ffn_backward.py.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, Tile, tile
from ussfast.ops._triton._launch import capability, launch
from ussfast.ops._triton._locoformer_ffn_backward import locoformer_ffn_backward
from ussfast.ops._triton._locoformer_ffn_parts import (
    Problem,
    columns,
    normal_tap,
    problem,
    shifted,
    sum_of_taps,
    whole_groups,
)
from ussfast.ops._triton._tuples import empty
from ussfast.ops.locoformer_ffn import reference

__all__ = ["locoformer_ffn", "locoformer_ffn_backward", "specimens"]


@triton.jit
def _locoformer_ffn_fwd_kernel(
    x, gamma, w1, b1, w2, b2, y, length, steps, total, others, hidden, eps,
    x_batch, x_other, x_step, y_batch, y_other, y_step,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, BG: tl.constexpr, BW: tl.constexpr,
    TAPS: tl.constexpr, BT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # BC: columns of a tap that each chunk of hidden units loads and normalises at a time; 0: all taps stay on the chip.
    # COLUMNS: one sum per tap, added up at the end; otherwise hidden rows are shifted before they are added.
    edge: tl.constexpr = TAPS - 1
    channels: tl.constexpr = BG * BW
    width: tl.constexpr = BT * channels
    v = tl.program_id(0) * (BN - edge) + tl.arange(0, BN)
    inside = v < total
    sequence, n = v // steps, v % steps
    batch, other = (sequence // others).to(tl.int64), (sequence % others).to(tl.int64)
    rows = x + batch * x_batch + other * x_other + n.to(tl.int64) * x_step
    taps = empty()
    if BC == 0:
        for j in tl.static_range(TAPS):
            tap = normal_tap(
                rows, n, inside, j - edge, 0, length, x_step, gamma, eps, channels, GROUPS, WIDTH, BW
            )  # fmt: skip
            taps += (tap.to(DOT),)
    out = tl.zeros((BN, width if COLUMNS else channels), tl.float32)
    q = tl.arange(0, width)
    c = tl.arange(0, channels)
    for h0 in range(0, hidden, BH):
        unit = h0 + tl.arange(0, BH)
        pair = 2 * h0 + tl.arange(0, 2 * BH)
        both = tl.zeros((BN, 2 * BH), tl.float32)
        if BC == 0:
            for j in tl.static_range(TAPS):
                weight = tl.load(w1 + pair[:, None] * width + (j * channels + c)[None, :])
                both = tl.dot(taps[j], tl.trans(weight), both, input_precision=PRECISION)
        else:
            for i in range(TAPS * channels // BC):
                j, c0 = i // (channels // BC), i % (channels // BC) * BC
                tap = normal_tap(
                    rows, n, inside, j - edge, c0, length, x_step, gamma, eps, BC, GROUPS, WIDTH, BW
                )  # fmt: skip
                weight = tl.load(w1 + pair[:, None] * width + (i * BC + tl.arange(0, BC))[None, :])
                both = tl.dot(tap.to(DOT), tl.trans(weight), both, input_precision=PRECISION)
        both += tl.load(b1 + pair)[None, :]
        value, gate = tl.split(tl.reshape(both, (BN, BH, 2)))
        h = (value * gate * tl.sigmoid(gate)).to(DOT)
        if COLUMNS:
            out = tl.dot(h, tl.load(w2 + unit[:, None] * width + q[None, :]), out, input_precision=PRECISION)
        else:
            for j in range(TAPS):
                weight = tl.load(w2 + unit[:, None] * width + (j * channels + c)[None, :])
                moved = shifted(h, edge - j)
                out = tl.dot(moved, weight, out, input_precision=PRECISION)
    if COLUMNS:
        out = sum_of_taps(out, edge, channels)
    channel, real = columns(0, channels, GROUPS, WIDTH, BW)
    mask = (inside & (n < length) & (tl.arange(0, BN) < BN - edge))[:, None] & real[None, :]
    out += tl.load(b2 + c)[None, :] + tl.load(rows[:, None] + channel[None, :], mask, 0.0).to(tl.float32)
    target = y + batch * y_batch + other * y_other + n.to(tl.int64) * y_step
    tl.store(target[:, None] + channel[None, :], out.to(y.dtype.element_ty), mask)


def tiles(p: Problem, arch: int) -> tuple[Tile, ...]:
    """Candidates for a capability; bench/NOTES.md has the reasons and what each of them needs."""
    channels, width = p.channels, p.channels * p.constants["BT"]
    part, units = whole_groups(p, 32), 64 if arch in (90, 100) else 32
    if p.constants["DOT"] == tl.float32:
        # With a single tap, a second stage spills a little in most cases.
        small = tile(8, 1 if p.edge == 0 else 2, BN=32, BH=32, BC=part, COLUMNS=0)
        large = tile(8, 1 if p.edge == 0 and arch != 90 else 2, BN=64, BH=32, BC=part, COLUMNS=0)
        return (large, small) if arch in (90, 100) and width <= 256 else (small,)
    loaded = tile(8, 2, BN=64, BH=units, BC=channels, COLUMNS=0)
    if width > 512 or (width > 64 and arch not in (80, 90, 100)):
        return (loaded,)
    if width > 256:
        kept = tile(8, 2, BN=64, BH=16, BC=0, COLUMNS=1)
        return (kept, tile(8, 2, BN=128, BH=64, BC=part, COLUMNS=0)) if arch == 90 else (kept,)
    if width <= 64:
        units = 32 if arch == 100 else 64  # Triton 3.6 spills a little there with more
        return tile(8, 3, BN=128, BH=units, BC=0, COLUMNS=1), tile(8, 2, BN=64, BH=64, BC=0, COLUMNS=1)
    wide = tile(8, 2, BN=128, BH=32 if arch == 90 else 16, BC=0, COLUMNS=1)
    narrow = tile(8, 2, BN=64, BH=32, BC=0, COLUMNS=1)
    return (narrow, loaded) if arch == 80 else (wide, narrow)


def locoformer_ffn(*args: Any) -> Tensor:
    p = problem(args)
    if p is None:
        return reference(*args).contiguous()
    y = torch.empty(p.x.shape, dtype=p.x.dtype, device=p.x.device)
    w = p.weights
    arguments = {"x": p.x, "gamma": w.gamma, "w1": w.w1, "b1": w.b1, "w2": w.w2, "b2": w.b2, "y": y}
    arguments |= p.arguments | {"hidden": w.w2.shape[0]} | p.strides(p.x, "x") | p.strides(y, "y")
    call = Call(
        _locoformer_ffn_fwd_kernel,
        lambda t: (triton.cdiv(p.total, t["BN"] - p.edge),),
        arguments,
        p.constants,
        tiles(p, capability(p.x)),
        matrix=True,
    )
    launch(call, p.x.device)
    return y


# channels, hidden, taps, groups, axis
_MODELS = {
    "tuss-medium": (64, 384, 4, 8, 2),
    "tuss-medium time": (64, 256, 4, 8, 1),
    "tuss-medium pointwise": (64, 384, 1, 8, 1),
    "tuss-large": (128, 384, 4, 8, 2),
    "tuss-large pointwise": (128, 384, 1, 8, 1),
    "sfc-small": (96, 128, 8, 4, 1),
}


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Windows of six seconds in bfloat16 and float32, gradients of x alone and of all weights too."""

    def arguments(name: str, precision: str) -> tuple[Any, ...]:
        channels, hidden, taps, groups, axis = _MODELS[name]
        x = torch.empty(1, 566, 62, channels, device="meta")
        w1, w2 = x.new_empty(2 * hidden, channels, taps), x.new_empty(hidden, channels, taps)
        vectors = x.new_empty(channels), x.new_empty(2 * hidden), x.new_empty(channels)
        return x, vectors[0], w1, vectors[1], w2, vectors[2], None, axis, groups, 1e-5, 1, precision

    for name in _MODELS:
        yield f"{name} bf16", locoformer_ffn, arguments(name, "bfloat16")
    for name in ("tuss-medium", "tuss-large", "tuss-large pointwise"):
        yield f"{name} fp32", locoformer_ffn, arguments(name, "float32")
    for name, precision, weights in (
        ("tuss-medium", "bfloat16", False),
        ("tuss-medium", "float32", True),
        ("tuss-medium pointwise", "bfloat16", True),
    ):
        args = arguments(name, precision)
        need = (True, *[weights] * 5, *[False] * 6)
        label = f"{name} {precision} gradients of {'weights' if weights else 'x'}"
        yield label, locoformer_ffn_backward, (torch.empty_like(args[0]), args, need)
