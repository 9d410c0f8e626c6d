"""The gated recurrence of the causal model, fused with its norm, its matrices and its residual; it trains on the CPU
too."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import round_bfloat16, under_autocast
from ussfast.ops._scan import carry_on, unknown

PRECISIONS = ("float32", "bfloat16")


def gated_recurrence(
    x: Tensor,
    state: Tensor,
    norm: Tensor,
    inner: Tensor,
    inner_bias: Tensor,
    outer: Tensor,
    *,
    eps: float = 1e-5,
    precision: str = "float32",
) -> tuple[Tensor, Tensor]:
    """x + outer(h * SiLU(gate)), h[t] = (1 - sigmoid(z[t])) h[t - 1] + sigmoid(z[t]) tanh(g[t]) along frames, where
    (z, g, gate) = inner(RMSNorm(x)).

    Args:
        x: [batch, frames, bands, channels], any floating dtype, any strides, at least one frame.
        state: h before x, [batch, bands, channels], zeros at first.
        norm: weight of the norm, [channels].
        inner, inner_bias: [3 * channels, channels] and [3 * channels]: z, then g, then gate.
        outer: [channels, channels].
        eps: of the norm, inside the root.
        precision: of the matrix products, "float32" or "bfloat16" (factors are rounded, sums are float32). Norm,
            gates, recurrence and residual are always float32. Gradients take the same.
    Returns:
        [batch, frames, bands, channels], and h after x, [batch, bands, channels]; both of x's dtype, contiguous.
    Raises:
        InputError (a ValueError): shapes that do not fit together, no frames, an unknown precision.
    Source: Feng et al., "Were RNNs all we needed?", 2024 (gates that see the input alone).
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    fits = (
        x.dim() == 4
        and x.shape[1] > 0
        and state.shape == (x.shape[0], *x.shape[2:])
        and norm.numel() == x.shape[3]
        and inner.shape == (3 * x.shape[3], x.shape[3])
        and inner_bias.numel() == 3 * x.shape[3]
        and outer.shape == (x.shape[3], x.shape[3])
    )
    if not fits:
        raise InputError(
            "gated_recurrence needs x [batch, frames, bands, channels] with frames, state [batch, bands, channels], "
            f"inner [3 * channels, channels] and outer [channels, channels], got x {list(x.shape)}, "
            f"state {list(state.shape)}, inner {list(inner.shape)}, outer {list(outer.shape)}"
        )
    return SPEC(x, state, norm, inner, inner_bias, outer, eps, under_autocast(x, precision))


def reference(
    x: Tensor, state: Tensor, norm: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, eps: float, precision: str
) -> tuple[Tensor, Tensor]:
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dtype = x.to(wide), x.dtype
    gamma, w1, bias, w2 = (t.to(wide) for t in (norm, inner, inner_bias, outer))
    y = F.rms_norm(x, (x.shape[3],), gamma, eps)
    if precision == "bfloat16":
        y, w1, w2 = round_bfloat16(y), round_bfloat16(w1), round_bfloat16(w2)
    z, g, gate = F.linear(y, w1, bias).chunk(3, -1)
    z = z.sigmoid()
    h = _carried(1 - z, z * g.tanh(), state.to(wide))
    last = h[:, -1]
    h = h * F.silu(gate)
    if precision == "bfloat16":
        h = round_bfloat16(h)
    return (x + F.linear(h, w2)).to(dtype), last.to(dtype, copy=True)


def _carried(keep: Tensor, add: Tensor, h: Tensor) -> Tensor:
    """h[t] = keep[t] h[t - 1] + add[t]."""
    if unknown(keep.shape[1]):
        return carry_on(keep, add, h)
    rows = []
    for k, a in zip(keep.unbind(1), add.unbind(1), strict=True):
        h = torch.addcmul(a, k, h)
        rows.append(h)
    return torch.stack(rows, 1)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(*shape: int, x: Tensor | None = None):
        batch, _, bands, channels = shape
        return (
            draw(*shape) if x is None else x,
            draw(batch, bands, channels),
            torch.rand(channels, device=device, dtype=torch.float64).to(dtype) + 0.5,
            draw(3 * channels, channels) * channels**-0.5,
            draw(3 * channels) * 0.1,
            draw(channels, channels) * channels**-0.5,
            1e-5, "float32",
        )  # fmt: skip

    yield case(2, 3, 5, 8)
    yield case(1, 4, 3, 5)  # channels with a tail
    yield case(1, 1, 1, 1)
    yield case(1, 27, 9, 4)  # more frames and bands than a block takes
    yield case(1, 2, 3, 36)  # more channels than a panel
    yield case(0, 2, 4, 8)  # empty batch
    x = torch.randn(2, 4, 8, 6, device=device, dtype=dtype)  # strided bands, then scattered channels
    yield case(2, 3, 4, 8, x=x.permute(0, 3, 1, 2)[:, ::2])
    yield case(2, 4, 4, 6, x=x[:, :, ::2])


def flop(
    x: Tensor, state: Tensor, norm: Tensor, inner: Tensor, inner_bias: Tensor, outer: Tensor, eps: float, precision: str
) -> int:
    return 2 * x.numel() // max(x.shape[3], 1) * (inner.numel() + outer.numel())


SPEC = define(
    OpSpec(
        "gated_recurrence",
        "(Tensor x, Tensor state, Tensor norm, Tensor inner, Tensor inner_bias, Tensor outer, float eps, "
        "str precision) -> (Tensor, Tensor)",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    loaded = hasattr(torch.ops.ussfast, "_gated_recurrence_forward")
    return loaded and all(a.dtype == torch.float32 for a in args if torch.is_tensor(a))


def _forward(args: tuple[Any, ...]) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, ...]]:
    out, last, states = torch.ops.ussfast._gated_recurrence_forward(*args)
    return (out, last), (states,)


def _backward(
    grads: tuple[Tensor | None, ...], args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    of_y = torch.zeros_like(args[0]) if grads[0] is None else grads[0]
    return *torch.ops.ussfast._gated_recurrence_backward(of_y, grads[1], *kept, *args), None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
