"""Attention among the bands of each frame in the causal model, fused with its norm, its matrices and its residual; it
trains on the CPU too. Second derivatives need float64: the reference has PyTorch's fused attention otherwise."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import round_bfloat16, under_autocast
from ussfast.ops.locoformer_attention import mix

PRECISIONS = ("float32", "bfloat16")


def band_attention(
    x: Tensor, norm: Tensor, qkv: Tensor, out: Tensor, *, heads: int, eps: float = 1e-5, precision: str = "float32"
) -> Tensor:
    """x + out(softmax(q k^T / sqrt(head width)) v) with q, k, v = qkv(RMSNorm(x)), among the bands of each frame.

    Args:
        x: [batch, frames, bands, channels], any floating dtype, any strides.
        norm: weight of the norm, [channels].
        qkv: [3 * channels, channels]: q, then k, then v, in each all channels of the first head come first.
        out: [channels, channels].
        heads: must divide channels.
        eps: of the norm, inside the root.
        precision: of the products with qkv and out, "float32" or "bfloat16" (factors are rounded, sums are float32).
            Norm, attention itself and residual are always float32. Gradients take the same.
    Returns:
        [batch, frames, bands, channels], dtype of x, contiguous.
    Raises:
        InputError (a ValueError): shapes that do not fit together, an unknown precision.
    Source: Vaswani et al., "Attention is all you need", 2017.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    fits = (
        x.dim() == 4
        and norm.numel() == x.shape[3]
        and qkv.shape == (3 * x.shape[3], x.shape[3])
        and out.shape == (x.shape[3], x.shape[3])
    )
    if not fits or heads < 1 or x.shape[3] % heads:
        raise InputError(
            "band_attention needs x [batch, frames, bands, channels], heads that divide channels, qkv "
            f"[3 * channels, channels] and out [channels, channels], got x {list(x.shape)}, heads {heads}, "
            f"qkv {list(qkv.shape)}, out {list(out.shape)}"
        )
    return SPEC(x, norm, qkv, out, heads, eps, under_autocast(x, precision))


def reference(x: Tensor, norm: Tensor, qkv: Tensor, out: Tensor, heads: int, eps: float, precision: str) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dtype = x.to(wide), x.dtype
    gamma, w1, w2 = (t.to(wide) for t in (norm, qkv, out))
    y = F.rms_norm(x, (x.shape[3],), gamma, eps)
    if precision == "bfloat16":
        y, w1, w2 = round_bfloat16(y), round_bfloat16(w1), round_bfloat16(w2)
    rows = F.linear(y, w1).flatten(0, 1)
    q, k, v = rows.unflatten(-1, (3, heads, x.shape[3] // heads)).permute(2, 0, 3, 1, 4)
    mixed = mix(q, k, v).transpose(1, 2).flatten(2)
    if precision == "bfloat16":
        mixed = round_bfloat16(mixed)
    return (x + F.linear(mixed, w2).view_as(x)).to(dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(shape: tuple[int, ...], heads: int, x: Tensor | None = None):
        channels = shape[3]
        return (
            draw(*shape) if x is None else x,
            torch.rand(channels, device=device, dtype=torch.float64).to(dtype) + 0.5,
            draw(3 * channels, channels) * channels**-0.5,
            draw(channels, channels) * channels**-0.5,
            heads, 1e-5, "float32",
        )  # fmt: skip

    yield case((2, 3, 5, 8), 2)
    yield case((1, 4, 3, 5), 1)  # channels with a tail
    yield case((1, 2, 7, 9), 3)  # heads with a tail
    yield case((1, 1, 1, 4), 2)
    yield case((1, 11, 33, 4), 1)  # more frames than a block takes, more bands than a panel
    yield case((1, 2, 3, 36), 1)  # a head wider than a panel
    yield case((0, 2, 4, 8), 2)  # empty batch
    x = torch.randn(2, 4, 8, 6, device=device, dtype=dtype)  # strided bands, then scattered channels
    yield case((2, 3, 4, 8), 2, x=x.permute(0, 3, 1, 2)[:, ::2])
    yield case((2, 4, 4, 6), 2, x=x[:, :, ::2])


def flop(x: Tensor, norm: Tensor, qkv: Tensor, out: Tensor, heads: int, eps: float, precision: str) -> int:
    rows = x.numel() // max(x.shape[3], 1)
    return 2 * rows * (qkv.numel() + out.numel() + 2 * x.shape[2] * x.shape[3])


SPEC = define(
    OpSpec(
        "band_attention",
        "(Tensor x, Tensor norm, Tensor qkv, Tensor out, int heads, float eps, str precision) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    loaded = hasattr(torch.ops.ussfast, "_band_attention_backward")
    return loaded and all(a.dtype == torch.float32 for a in args if torch.is_tensor(a))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return SPEC.overload(*args), ()  # the backward pass computes all it needs again


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return *torch.ops.ussfast._band_attention_backward(grad, *args), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
