"""What the Triton kernels of locoformer_ffn share: numbering of rows, normalised taps, weights as kernels want them.

Virtual rows. Every sequence along the axis has `steps` = length + taps - 1 rows of hidden units, and all of these are
numbered through: row v is step v % steps of sequence v // steps. A program takes BN such rows and answers for the first
BN - (taps - 1), because a result needs the hidden rows up to taps - 1 further on. So short sequences share a program,
long ones are cut, and both axes are only strides.

Channels. Each group of the norm is padded to a power of two, and so is the number of groups: column q of a kernel is
channel q % BW of group q // BW. Taps are padded too: column q of a row of taps is channel column q % (BG * BW) of tap
q // (BG * BW).
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._launch import dot_types
from ussfast.ops._triton._layouts import laid_out

# Hidden units are padded to a multiple of this: the largest chunk that divides them all.
HIDDEN_UNIT = 64
MOST_CHANNELS, MOST_TAPS = 256, 8
_TORCH = {tl.float32: torch.float32, tl.bfloat16: torch.bfloat16, tl.float16: torch.float16}


@triton.jit
def columns(c0, BC: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BW: tl.constexpr):
    """Channel of each of the columns c0 to c0 + BC - 1, and whether there is such a channel."""
    q = c0 + tl.arange(0, BC)
    return q // BW * WIDTH + q % BW, (q // BW < GROUPS) & (q % BW < WIDTH)


@triton.jit
def load_tap(
    rows, n, inside, by, c0, length, stride,
    BC: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """[BN, BC] in float32: columns c0 and on of positions n + by of the rows, zeros outside of the sequence.

    rows: pointers to position n of each row.
    """
    channel, real = columns(c0, BC, GROUPS, WIDTH, BW)
    ok = inside & (n + by >= 0) & (n + by < length)
    return tl.load((rows + by * stride)[:, None] + channel[None, :], ok[:, None] & real[None, :], 0.0).to(tl.float32)


@triton.jit
def inverse_rms(x, eps, WIDTH: tl.constexpr, BW: tl.constexpr):
    """x in groups [BN, groups, BW], the RMS of each and 1 / (RMS + eps); 0 where that has no limit."""
    grouped = tl.reshape(x, (x.shape[0], x.shape[1] // BW, BW))
    rms = tl.sqrt(tl.sum(grouped * grouped, 2) / WIDTH)
    # Rows outside of a sequence are zero, and must remain so if eps is zero as well.
    return grouped, rms, 1 / tl.where(rms + eps == 0, float("inf"), rms + eps)


@triton.jit
def normal_tap(
    rows, n, inside, by, c0, length, stride, gamma, eps,
    BC: tl.constexpr, GROUPS: tl.constexpr, WIDTH: tl.constexpr, BW: tl.constexpr,
):  # fmt: skip
    """`load_tap` of whole groups, normalised and weighted."""
    x = load_tap(rows, n, inside, by, c0, length, stride, BC, GROUPS, WIDTH, BW)
    grouped, _, inverse = inverse_rms(x, eps, WIDTH, BW)
    return tl.reshape(grouped * inverse[:, :, None], x.shape) * tl.load(gamma + c0 + tl.arange(0, BC))[None, :]


@triton.jit
def shifted(x, by):
    """Row i of the result is row i + by of x; the last `by` rows have no meaning."""
    row = tl.minimum(tl.arange(0, x.shape[0]) + by, x.shape[0] - 1)
    return tl.gather(x, tl.broadcast_to(row[:, None], x.shape), 0)


@triton.jit
def sum_of_taps(x, EDGE: tl.constexpr, CHANNELS: tl.constexpr):
    """[BN, taps * CHANNELS] -> [BN, CHANNELS]: row i is the sum over taps j of row i + EDGE - j, columns of tap j."""
    if EDGE == 0:
        return x
    tap = tl.arange(0, x.shape[1]) // CHANNELS
    row = tl.arange(0, x.shape[0])[:, None] + tl.maximum(EDGE - tap, 0)[None, :]
    moved = tl.gather(x, tl.minimum(row, x.shape[0] - 1), 0)
    # Padded taps have weights of zero.
    return tl.sum(tl.reshape(moved, (x.shape[0], x.shape[1] // CHANNELS, CHANNELS)), 1)


@dataclass(frozen=True)
class Weights:
    """gamma [channel columns], b2 likewise, b1 [2 * hidden], w1 [2 * hidden, tap columns], w2 [hidden, tap columns].

    Rows of w1 and b1 alternate between a value and its gate, so that both lie next to each other in a register pair of
    the product's result. Vectors are float32, matrices have the type of the products' factors.
    """

    gamma: Tensor
    w1: Tensor
    b1: Tensor
    w2: Tensor
    b2: Tensor


@dataclass(frozen=True)
class Problem:
    """Sizes of one call, with `x` in a form that kernels can address."""

    x: Tensor
    weights: Weights
    axis: int
    groups: int
    taps: int
    hidden: int
    arguments: dict[str, Any]
    constants: dict[str, Any]

    @property
    def edge(self) -> int:
        return self.taps - 1

    @property
    def total(self) -> int:
        """Virtual rows."""
        return self.arguments["total"]

    @property
    def channels(self) -> int:
        """Columns of one tap."""
        return self.constants["BG"] * self.constants["BW"]

    def strides(self, t: Tensor, prefix: str) -> dict[str, int]:
        """Of sequences and positions, by the names of the kernels' arguments."""
        other = 3 - self.axis
        return {
            f"{prefix}_batch": t.stride(0),
            f"{prefix}_other": t.stride(other),
            f"{prefix}_step": t.stride(self.axis),
        }


def whole_groups(p: Problem, most: int) -> int:
    """Columns to load at a time: at most so many, if a group does not have more."""
    return min(max(most, p.constants["BW"]), p.channels)


def padded(channels: int, groups: int) -> tuple[int, int]:
    """(BG, BW): groups, and channels of each, padded; at least 16 columns together, which products need."""
    bg, bw = triton.next_power_of_2(groups), triton.next_power_of_2(channels // groups)
    return bg, max(bw, 16 // bg)


def problem(args: tuple[Any, ...]) -> Problem | None:
    """What the kernels need to know, or None where the reference has to do it."""
    x, gamma, w1, b1, w2, b2, _, axis, groups, eps, stride, precision = args
    hidden, channels, taps = w2.shape
    bg, bw = padded(channels, groups)
    length, others = x.shape[axis], x.shape[3 - axis]
    total = x.shape[0] * others * (length + taps - 1)
    x = x if x.stride(3) == 1 else x.contiguous()
    fits = x.numel() and bg * bw <= MOST_CHANNELS and taps <= MOST_TAPS and max(x.stride()) * taps < 2**31
    if stride > 1 or precision == "int8" or x.dtype == torch.float64 or not fits or total >= 2**31 - 2**10:
        return None
    dot, product = dot_types(x.dtype, precision)
    weights = laid_out((w1, gamma, b1, w2, b2), lambda: arranged(gamma, w1, b1, w2, b2, groups, dot), (groups, dot))
    arguments = {"length": length, "steps": length + taps - 1, "total": total, "others": others, "eps": eps}
    constants = {"GROUPS": groups, "WIDTH": channels // groups, "BG": bg, "BW": bw, "TAPS": taps}
    constants |= {"BT": triton.next_power_of_2(taps), "DOT": dot, "PRECISION": product}
    return Problem(x, weights, axis, groups, taps, hidden, arguments, constants)


def arranged(gamma: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, groups: int, dot: Any) -> Weights:
    """The weights as `Weights` says, zeros in the padding."""
    hidden, channels, taps = w2.shape
    width, (bg, bw) = channels // groups, padded(channels, groups)
    rows = triton.cdiv(hidden, HIDDEN_UNIT) * HIDDEN_UNIT
    bt = triton.next_power_of_2(taps)

    def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, device=w1.device)

    with torch.no_grad():
        wide1, wide2 = zeros(rows, 2, bt, bg, bw, dtype=_TORCH[dot]), zeros(rows, bt, bg, bw, dtype=_TORCH[dot])
        wide1[:hidden, :, :taps, :groups, :width] = w1.view(2, hidden, groups, width, taps).permute(1, 0, 4, 2, 3)
        wide2[:hidden, :taps, :groups, :width] = w2.view(hidden, groups, width, taps).permute(0, 3, 1, 2)
        vectors = zeros(rows, 2), zeros(bg, bw), zeros(bg, bw)
        vectors[0][:hidden] = b1.view(2, hidden).t()
        vectors[1][:groups, :width] = b2.view(groups, width)
        vectors[2][:groups, :width] = gamma.view(groups, width)
    first, second, scale = (v.flatten() for v in vectors)
    return Weights(scale, wide1.view(2 * rows, -1), first, wide2.view(rows, -1), second)
