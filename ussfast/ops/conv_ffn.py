"""The convolutional SwiGLU feed-forward layer of the causal model, fused with its norm and residual; it trains on the
CPU too."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import round_bfloat16, under_autocast

KERNEL = 3
PRECISIONS = ("float32", "bfloat16")


def conv_ffn(
    x: Tensor,
    past: Tensor | None,
    norm: Tensor,
    inner: Tensor,
    inner_bias: Tensor,
    outer: Tensor,
    outer_bias: Tensor,
    *,
    axis: int,
    eps: float = 1e-5,
    precision: str = "float32",
) -> Tensor:
    """x + outer(value * SiLU(gate)), where (value, gate) = inner(three neighbours of RMSNorm(x)).

    Among bands, neighbours are the band itself and those beside it, zeros at both ends; along time, the frame itself
    and the two before it.

    Args:
        x: [batch, frames, bands, channels], any floating dtype, any strides.
        past: the two frames before x along time, [batch, 2, bands, channels], raw as x is; None stands for zeros.
        norm: weight of the norm, [channels].
        inner, inner_bias: [2 * hidden, 3 * channels] and [2 * hidden], values before gates; in a row all channels of
            the first neighbour come first.
        outer, outer_bias: [channels, hidden] and [channels].
        axis: 1 runs along frames, 2 along bands.
        eps: of the norm, inside the root.
        precision: of the matrix products, "float32" or "bfloat16" (factors are rounded, sums are float32). Norm,
            SwiGLU and residual are always float32. Gradients take the same.
    Returns:
        [batch, frames, bands, channels], dtype of x, contiguous.
    Raises:
        InputError (a ValueError): shapes that do not fit together, a past among bands, an unknown precision.
    Source: Shazeer, "GLU variants improve Transformer", 2020 (SwiGLU).
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    fits = (
        x.dim() == 4
        and inner.dim() == outer.dim() == 2
        and x.shape[3] == norm.numel() == outer.shape[0] == outer_bias.numel()
        and inner.shape[0] == inner_bias.numel() == 2 * outer.shape[1]
        and inner.shape[1] == KERNEL * x.shape[3]
    )
    if not fits or axis not in (1, 2):
        raise InputError(
            "conv_ffn needs x [batch, frames, bands, channels], axis 1 or 2, inner [2 * hidden, 3 * channels] and "
            f"outer [channels, hidden], got x {list(x.shape)}, axis {axis}, inner {list(inner.shape)}, "
            f"outer {list(outer.shape)}"
        )
    if past is not None and (axis != 1 or past.shape != (x.shape[0], KERNEL - 1, *x.shape[2:])):
        raise InputError(
            f"past is for axis 1 and [batch, {KERNEL - 1}, bands, channels], got {list(past.shape)} for "
            f"x {list(x.shape)} and axis {axis}"
        )
    return SPEC(x, past, norm, inner, inner_bias, outer, outer_bias, axis, eps, under_autocast(x, precision))


def reference(
    x: Tensor, past: Tensor | None, norm: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor,
    outer_bias: Tensor, axis: int, eps: float, precision: str,
) -> Tensor:  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dtype = x.to(wide), x.dtype
    gamma, w1, b1, w2, b2 = (t.to(wide) for t in (norm, inner, inner_bias, outer, outer_bias))
    longer = x if past is None else torch.cat((past.to(wide), x), 1)
    y = F.rms_norm(longer, (x.shape[3],), gamma, eps)
    if precision == "bfloat16":
        y, w1, w2 = round_bfloat16(y), round_bfloat16(w1), round_bfloat16(w2)
    if axis == 2:
        y = F.pad(y, (0, 0, 1, 1))
    elif past is None:
        y = F.pad(y, (0, 0, 0, 0, KERNEL - 1, 0))
    taps = torch.cat([y.narrow(axis, i, x.shape[axis]) for i in range(KERNEL)], -1)
    value, gate = F.linear(taps, w1, b1).chunk(2, -1)
    h = value * F.silu(gate)
    if precision == "bfloat16":
        h = round_bfloat16(h)
    return (x + F.linear(h, w2, b2)).to(dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(shape: tuple[int, ...], hidden: int, axis: int, past: bool = False, x: Tensor | None = None):
        batch, _, bands, channels = shape
        return (
            draw(*shape) if x is None else x,
            draw(batch, 2, bands, channels) if past else None,
            torch.rand(channels, device=device, dtype=torch.float64).to(dtype) + 0.5,
            draw(2 * hidden, 3 * channels) * (3 * channels) ** -0.5,
            draw(2 * hidden) * 0.1,
            draw(channels, hidden) * hidden**-0.5,
            draw(channels) * 0.1,
            axis, 1e-5, "float32",
        )  # fmt: skip

    yield case((1, 3, 5, 8), 6, 2)
    yield case((2, 7, 3, 8), 5, 1, past=True)
    yield case((2, 4, 3, 5), 7, 1)  # hidden and channels with tails
    yield case((1, 1, 1, 6), 4, 2)  # nobody beside it
    yield case((1, 1, 2, 6), 4, 1, past=True)
    yield case((1, 30, 9, 4), 33, 2)  # more rows than a block takes, more hidden units than a panel
    yield case((1, 70, 4, 36), 4, 1, past=True)  # the same along time, more channels than a panel
    yield case((0, 2, 4, 8), 4, 2)  # empty batch
    x = torch.randn(2, 4, 8, 6, device=device, dtype=dtype)  # strided bands, then scattered channels
    yield case((2, 3, 4, 8), 6, 2, x=x.permute(0, 3, 1, 2)[:, ::2])
    yield case((2, 4, 4, 6), 6, 1, past=True, x=x[:, :, ::2])


def flop(
    x: Tensor, past: Tensor | None, norm: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor,
    outer_bias: Tensor, axis: int, eps: float, precision: str,
) -> int:  # fmt: skip
    return 2 * x.numel() // max(x.shape[3], 1) * (inner.numel() + outer.numel())


SPEC = define(
    OpSpec(
        "conv_ffn",
        "(Tensor x, Tensor? past, Tensor norm, Tensor inner, Tensor inner_bias, Tensor outer, Tensor outer_bias, "
        "int axis, float eps, str precision) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    loaded = hasattr(torch.ops.ussfast, "_conv_ffn_forward")
    return loaded and all(a.dtype == torch.float32 for a in args if torch.is_tensor(a))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    out, kept = torch.ops.ussfast._conv_ffn_forward(*args)
    return out, (kept,)


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    frozen = not any(need[2:])
    return *torch.ops.ussfast._conv_ffn_backward(grad, *kept, *args, frozen), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
