"""Backward pass of ussfast.ops.locoformer_ffn in Triton: recomputes what it needs, in tiles like the forward pass's."""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._call import Call, Tile, tile
from ussfast.ops._triton._launch import capability, launch
from ussfast.ops._triton._locoformer_ffn_parts import (
    Problem,
    columns,
    inverse_rms,
    load_tap,
    normal_tap,
    problem,
    shifted,
    sum_of_taps,
    whole_groups,
)
from ussfast.ops._triton._tuples import empty


@triton.jit
def _locoformer_ffn_bwd_kernel(
    x, grad, gamma, w1, b1, w2, dx, hidden_rows, d_rows, normal_rows, grad_rows, gamma_rows,
    length, steps, total, others, hidden, eps,
    x_batch, x_other, x_step, grad_batch, grad_other, grad_step, dx_batch, dx_other, dx_step,
    GROUPS: tl.constexpr, WIDTH: tl.constexpr, BG: tl.constexpr, BW: tl.constexpr,
    TAPS: tl.constexpr, BT: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr,
    BN: tl.constexpr, BH: tl.constexpr, BC: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    # Tiles as in the forward pass. A hidden row sees the same positions of x and of the gradient.
    # hidden_rows and the four after it, by virtual rows: for gradients of weights, or None.
    edge: tl.constexpr = TAPS - 1
    channels: tl.constexpr = BG * BW
    width: tl.constexpr = BT * channels
    v = tl.program_id(0) * (BN - edge) + tl.arange(0, BN)
    inside = v < total
    sequence, n = v // steps, v % steps
    batch, other, row = (sequence // others).to(tl.int64), (sequence % others).to(tl.int64), n.to(tl.int64)
    rows = x + batch * x_batch + other * x_other + row * x_step
    grads = grad + batch * grad_batch + other * grad_other + row * grad_step
    taps = empty()
    d_taps = empty()
    if BC == 0:
        for j in tl.static_range(TAPS):
            tap = normal_tap(
                rows, n, inside, j - edge, 0, length, x_step, gamma, eps, channels, GROUPS, WIDTH, BW
            )  # fmt: skip
            d_tap = load_tap(grads, n, inside, j - edge, 0, length, grad_step, channels, GROUPS, WIDTH, BW)
            taps += (tap.to(DOT),)
            d_taps += (d_tap.to(DOT),)
    q, c = tl.arange(0, width), tl.arange(0, channels)
    mine = inside & (tl.arange(0, BN) < BN - edge)
    d_normal = tl.zeros((BN, width if COLUMNS else channels), tl.float32)
    for h0 in range(0, hidden, BH):
        unit = h0 + tl.arange(0, BH)
        pair = 2 * h0 + tl.arange(0, 2 * BH)
        both = tl.zeros((BN, 2 * BH), tl.float32)
        dh = tl.zeros((BN, BH), tl.float32)
        if BC == 0:
            for j in tl.static_range(TAPS):
                weight = tl.load(w1 + pair[:, None] * width + (j * channels + c)[None, :])
                both = tl.dot(taps[j], tl.trans(weight), both, input_precision=PRECISION)
                weight = tl.load(w2 + unit[:, None] * width + (j * channels + c)[None, :])
                dh = tl.dot(d_taps[j], tl.trans(weight), dh, input_precision=PRECISION)
        else:
            for i in range(TAPS * channels // BC):
                j, c0 = i // (channels // BC), i % (channels // BC) * BC
                part = i * BC + tl.arange(0, BC)
                tap = normal_tap(
                    rows, n, inside, j - edge, c0, length, x_step, gamma, eps, BC, GROUPS, WIDTH, BW
                )  # fmt: skip
                weight = tl.load(w1 + pair[:, None] * width + part[None, :])
                both = tl.dot(tap.to(DOT), tl.trans(weight), both, input_precision=PRECISION)
            for i in range(TAPS * channels // BC):
                j, c0 = i // (channels // BC), i % (channels // BC) * BC
                part = i * BC + tl.arange(0, BC)
                d_tap = load_tap(grads, n, inside, j - edge, c0, length, grad_step, BC, GROUPS, WIDTH, BW)
                weight = tl.load(w2 + unit[:, None] * width + part[None, :])
                dh = tl.dot(d_tap.to(DOT), tl.trans(weight), dh, input_precision=PRECISION)
        both += tl.load(b1 + pair)[None, :]
        value, gate = tl.split(tl.reshape(both, (BN, BH, 2)))
        open_ = tl.sigmoid(gate)
        silu = gate * open_
        d_both = tl.join(dh * silu, dh * value * (open_ + silu * (1 - open_)))
        d_both = tl.reshape(d_both, (BN, 2 * BH)).to(DOT)
        if hidden_rows is not None:
            at = v.to(tl.int64)[:, None] * hidden
            tl.store(hidden_rows + at + unit[None, :], (value * silu).to(DOT), mine[:, None])
            tl.store(d_rows + 2 * at + pair[None, :], d_both.to(DOT), mine[:, None])
        if COLUMNS:
            weight = tl.load(w1 + pair[:, None] * width + q[None, :])
            d_normal = tl.dot(d_both, weight, d_normal, input_precision=PRECISION)
        else:
            for j in range(TAPS):
                weight = tl.load(w1 + pair[:, None] * width + (j * channels + c)[None, :])
                moved = shifted(d_both, edge - j)
                d_normal = tl.dot(moved, weight, d_normal, input_precision=PRECISION)
    if COLUMNS:
        d_normal = sum_of_taps(d_normal, edge, channels)
    channel, real = columns(0, channels, GROUPS, WIDTH, BW)
    mask = (mine & (n < length))[:, None] & real[None, :]
    here = tl.load(rows[:, None] + channel[None, :], mask, 0.0).to(tl.float32)
    d_out = tl.load(grads[:, None] + channel[None, :], mask, 0.0).to(tl.float32)
    grouped, rms, inverse = inverse_rms(here, eps, WIDTH, BW)
    unweighted = tl.reshape(grouped * inverse[:, :, None], (BN, channels))
    scale = tl.load(gamma + c)[None, :]
    d_unit = tl.reshape(d_normal * scale, (BN, BG, BW))
    # The RMS of silence has no gradient: what would be divided by it is zero.
    slope = tl.sum(d_unit * grouped, 2) * inverse * inverse / tl.where(rms == 0, 1.0, rms * WIDTH)
    d_here = d_unit * inverse[:, :, None] - grouped * slope[:, :, None]
    target = dx + batch * dx_batch + other * dx_other + row * dx_step
    result = (tl.reshape(d_here, (BN, channels)) + d_out).to(dx.dtype.element_ty)
    tl.store(target[:, None] + channel[None, :], result, mask)
    if hidden_rows is not None:
        at = v.to(tl.int64)[:, None] * channels + c[None, :]
        tl.store(normal_rows + at, (unweighted * scale).to(DOT), mine[:, None])
        tl.store(grad_rows + at, d_out.to(DOT), mine[:, None])
        tl.store(gamma_rows + at, tl.where(mask, d_normal * unweighted, 0.0), mine[:, None])


def tiles(p: Problem, arch: int) -> tuple[Tile, ...]:
    """Candidates for a capability; bench/NOTES.md has the reasons and what each of them needs."""
    width, part = p.channels * p.constants["BT"], whole_groups(p, 32)
    if p.constants["DOT"] == tl.float32:
        small = tile(8, 2, BN=32, BH=16, BC=part, COLUMNS=0)
        return (tile(8, 2, BN=64, BH=16, BC=part, COLUMNS=0), small) if arch == 90 and width <= 256 else (small,)
    loaded = tile(8, 2, BN=64, BH=32, BC=part, COLUMNS=0)
    if width > 256:
        return (loaded if arch in (90, 100) else tile(8, 2, BN=32, BH=32, BC=part, COLUMNS=0),)
    if width > 64 and arch not in (80, 90):
        return (tile(8, 2, BN=64, BH=32, BC=whole_groups(p, 64), COLUMNS=0),)
    if width > 64:
        return tile(8, 2, BN=64, BH=16, BC=0, COLUMNS=1), loaded
    return tile(8, 2, BN=64, BH=32, BC=0, COLUMNS=1), loaded


def locoformer_ffn_backward(
    grad: Tensor, args: tuple[Any, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of the six tensors where `need` asks for them, None for everything else.

    Gradients of weights need memory for 3 * hidden + 2 * channels values of the products' type and for channels
    float32 values per virtual row: the hidden activations, the gradients before the SwiGLU, the normalised input, the
    gradient of the result, and what adds up to the gradient of the norm's weight.
    """
    p = problem(tuple(args))
    if p is None:
        return None
    grad = grad if grad.stride(3) == 1 else grad.contiguous()
    dx = torch.empty(p.x.shape, dtype=p.x.dtype, device=p.x.device)
    kept: dict[str, Any] = _rows(p) if any(need[1:6]) else dict.fromkeys(_KEPT)
    w = p.weights
    arguments: dict[str, Any] = {
        "x": p.x,
        "grad": grad,
        "gamma": w.gamma,
        "w1": w.w1,
        "b1": w.b1,
        "w2": w.w2,
        "dx": dx,
    } | kept
    arguments |= p.arguments | {"hidden": w.w2.shape[0]}
    arguments |= p.strides(p.x, "x") | p.strides(grad, "grad") | p.strides(dx, "dx")
    call = Call(
        _locoformer_ffn_bwd_kernel,
        lambda t: (triton.cdiv(p.total, t["BN"] - p.edge),),
        arguments,
        p.constants,
        tiles(p, capability(p.x)),
        matrix=True,
    )
    launch(call, p.x.device)
    found = _of_weights(p, grad, args, kept, need) if any(need[1:6]) else [None] * 5
    return (dx if need[0] else None, *found, *[None] * (len(args) - 6))


_KEPT = ("hidden_rows", "d_rows", "normal_rows", "grad_rows", "gamma_rows")


def _rows(p: Problem) -> dict[str, Tensor]:
    hidden, dot = p.weights.w2.shape[0], p.weights.w2.dtype
    widths, dtypes = (hidden, 2 * hidden, *[p.channels] * 3), (*[dot] * 4, torch.float32)
    return {
        name: torch.empty(p.total, width, dtype=dtype, device=p.x.device)
        for name, width, dtype in zip(_KEPT, widths, dtypes, strict=True)
    }


def _of_weights(
    p: Problem, grad: Tensor, args: tuple[Any, ...], rows: dict[str, Tensor], need: tuple[bool, ...]
) -> list[Tensor | None]:
    """Gradients of norm_weight to deconv_bias, from what the kernel left: one product per tap."""
    edge, hidden, groups = p.edge, p.hidden, p.groups
    width, bg, bw = p.constants["WIDTH"], p.constants["BG"], p.constants["BW"]

    def products(left: Tensor, right: Tensor) -> Tensor:
        """[left columns, channels, taps]: sums over v of left[v + edge - tap] and right[v]."""
        # Rows that are next to another sequence's by such a shift are zero in one of the two.
        found = [left[edge - j :].t() @ right[: p.total - edge + j] for j in range(p.taps)]
        return torch.stack([f.view(-1, bg, bw)[:, :groups, :width].flatten(1) for f in found], -1)

    def conv() -> Tensor:
        every = products(rows["d_rows"], rows["normal_rows"])
        return every.view(-1, 2, *every.shape[1:])[:hidden].transpose(0, 1).flatten(0, 1)

    def deconv() -> Tensor:
        return products(rows["hidden_rows"], rows["grad_rows"])[:hidden]

    make = (
        lambda: rows["gamma_rows"].sum(0).view(bg, bw)[:groups, :width].flatten(),
        conv,
        lambda: rows["d_rows"].sum(0, dtype=torch.float32).view(-1, 2)[:hidden].t().flatten(),
        deconv,
        lambda: grad.sum((0, 1, 2), dtype=torch.float32),
    )
    return [gradient().to(args[i].dtype).contiguous() if need[i] else None for i, gradient in enumerate(make, start=1)]
