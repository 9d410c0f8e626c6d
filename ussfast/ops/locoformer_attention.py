"""Self-attention of TF-Locoformer with rotary positions, fused with its norm, projections and residual.

On the CPU the gradient of x alone, with weights that stay as they are, has kernels too; others are the reference's.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import check_precision, round_int8, under_autocast
from ussfast.ops.rms_group_norm import reference as rms_reference


def locoformer_attention(
    x: Tensor,
    norm_weight: Tensor,
    qkv_weight: Tensor,
    out_weight: Tensor,
    rope: Tensor | None,
    packed: Tensor | None = None,
    *,
    axis: int,
    groups: int,
    heads: int,
    eps: float = 1e-5,
    precision: str = "float32",
) -> Tensor:
    """x + out(softmax(q k^T / sqrt(head width)) v) with q, k, v = qkv(RMSGroupNorm(x)), along time or frequency.

    Args:
        x: [batch, frames, bands, channels], any floating dtype, any strides.
        norm_weight: [channels].
        qkv_weight: [3 * width, channels]: queries, then keys, then values, each of `heads` equal parts.
        out_weight: [channels, width].
        rope: [head width / 2] rotation frequencies in radians per position (counted from 0 along the axis);
            channel pairs (2i, 2i+1) of queries and keys are rotated. None leaves positions out.
        packed: of these weights, from `pack`; without it the CPU kernel packs them in every call.
        axis: 1 runs along frames, 2 along bands.
        groups, eps: of the norm, see `rms_group_norm`.
        precision: "int8" runs the qkv projection in int8 (weights per output channel; normalised activations have a
            known range); everything else, and all with "bfloat16", is float32. But on a GPU, "bfloat16" and bfloat16
            tensors have 16-bit factors in all products (float16, whose range the norm keeps to) and float32 sums.
    Returns:
        [batch, frames, bands, channels], dtype of x, contiguous; computed in float32, or float64 for float64. The
        scores of all keys are never in memory at once.
    Raises:
        InputError (a ValueError): shapes that do not fit together, unknown precision.
    Source: Saijo et al., "TF-Locoformer", IWAENC 2024; Su et al., "RoFormer", 2021; Dao et al., "FlashAttention",
        2022 (softmax over blocks of keys).
    """
    check_precision(precision)
    fits = (
        x.dim() == 4
        and qkv_weight.dim() == out_weight.dim() == 2
        and x.shape[3] == norm_weight.numel() == qkv_weight.shape[1] == out_weight.shape[0]
        and qkv_weight.shape[0] == 3 * out_weight.shape[1]
        and heads >= 1
        and out_weight.shape[1] % heads == 0
        and groups >= 1
        and x.shape[3] % groups == 0
        and (rope is None or 2 * heads * rope.numel() == out_weight.shape[1])
    )
    if not fits or axis not in (1, 2):
        raise InputError(
            "locoformer_attention needs x [batch, frames, bands, channels], axis 1 or 2, qkv_weight [3 * width, "
            "channels], out_weight [channels, width], heads that divide width, groups that divide channels and rope "
            f"[width / heads / 2], got x {list(x.shape)}, axis {axis}, qkv_weight {list(qkv_weight.shape)}, out_weight "
            f"{list(out_weight.shape)}, heads {heads}, groups {groups}, "
            f"rope {None if rope is None else list(rope.shape)}"
        )
    return SPEC(
        x, norm_weight, qkv_weight, out_weight, rope, packed,
        axis, groups, eps, heads, under_autocast(x, precision),
    )  # fmt: skip


def pack(
    norm_weight: Tensor, qkv_weight: Tensor, out_weight: Tensor, heads: int, groups: int, precision: str
) -> Tensor:
    """The weights as the CPU kernel of this machine wants them: bytes for `packed`, not for files."""
    return torch.ops.ussfast._pack_locoformer_attention(norm_weight, qkv_weight, out_weight, heads, groups, precision)


def rotate(x: Tensor, frequencies: Tensor) -> Tensor:
    """Rotates the channel pairs of [..., length, head width] by position times frequency."""
    wide = torch.promote_types(x.dtype, torch.float32)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=wide)[:, None] * frequencies.to(wide)
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((even * cos - odd * sin, odd * cos + even * sin), -1).flatten(-2)


def mix(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax(q k^T / sqrt(width) + bias) v."""
    if q.dtype != torch.float64:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
    # PyTorch's fused kernel has no second derivative, and who computes in float64 wants to check derivatives.
    scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
    if bias is not None:
        scores = scores + bias
    return scores.softmax(-1) @ v


def attend(rows: Tensor, qkv_weight: Tensor, out_weight: Tensor, rope: Tensor | None, heads: int) -> Tensor:
    """The layer between norm and residual: [sequences, length, channels] -> the same shape."""
    q, k, v = F.linear(rows, qkv_weight).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    if rope is not None:
        q, k = rotate(q, rope), rotate(k, rope)
    return F.linear(mix(q, k, v).transpose(1, 2).flatten(-2), out_weight)


def reference(
    x: Tensor, norm_weight: Tensor, qkv_weight: Tensor, out_weight: Tensor, rope: Tensor | None,
    packed: Tensor | None, axis: int, groups: int, eps: float, heads: int, precision: str,
) -> Tensor:  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dtype = x.to(wide), x.dtype
    turned = x.transpose(1, 2) if axis == 1 else x
    rows, qkv = turned.flatten(0, 1), qkv_weight.to(wide)
    if precision == "int8":  # the norm's weight goes into the projection: what is left has a known range
        rows = rms_reference(rows, torch.ones_like(norm_weight), groups, eps)
        rows = round_int8(rows, (x.shape[3] // groups) ** 0.5)
        qkv = qkv * norm_weight.to(wide)
        qkv = round_int8(qkv, qkv.abs().amax(1, keepdim=True))
    else:
        rows = rms_reference(rows, norm_weight, groups, eps)
    y = attend(rows, qkv, out_weight.to(wide), rope, heads)
    out = turned + y.unflatten(0, turned.shape[:2])
    return (out.transpose(1, 2) if axis == 1 else out).to(dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(x: Tensor, width: int, heads: int, axis: int):
        channels = x.shape[-1]
        rope = torch.rand(width // heads // 2, device=device, dtype=torch.float64).to(dtype)
        return (
            x, draw(channels).abs() + 0.5, draw(3 * width, channels) * channels**-0.5,
            draw(channels, width) * width**-0.5, rope, None, axis, 2, 1e-5, heads, "float32",
        )  # fmt: skip

    yield case(draw(1, 2, 7, 8), 8, 2, 2)
    yield case(draw(2, 5, 2, 6), 12, 2, 1)  # tails everywhere
    no_positions = list(case(draw(1, 3, 1, 4), 4, 1, 1))
    no_positions[4] = None
    yield tuple(no_positions)
    yield case(draw(1, 1, 1, 8), 8, 2, 2)  # one frame, one band
    yield case(draw(1, 2, 9, 8), 8, 1, 2)
    yield case(draw(0, 2, 3, 8), 8, 2, 1)  # empty batch
    x = draw(2, 4, 8, 6)  # strided bins, then scattered channels
    yield case(x.permute(0, 3, 1, 2)[:, ::2], 8, 2, 2)
    yield case(x[:, :, ::2], 12, 1, 1)


def flop(
    x: Tensor, norm_weight: Tensor, qkv_weight: Tensor, out_weight: Tensor, rope: Tensor | None,
    packed: Tensor | None, axis: int, groups: int, eps: float, heads: int, precision: str,
) -> int:  # fmt: skip
    """Projections, scores and the mixture of values."""
    batch, frames, bands, _ = x.shape
    projections = qkv_weight.numel() + out_weight.numel()
    return 2 * batch * frames * bands * (projections + 2 * x.shape[axis] * out_weight.shape[1])


SPEC = define(
    OpSpec(
        "locoformer_attention",
        "(Tensor x, Tensor norm_weight, Tensor qkv_weight, Tensor out_weight, Tensor? rope, Tensor? packed, int axis, "
        "int groups, float eps, int heads, str precision) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    weights = [a for a in args[1:5] if a is not None]
    if not hasattr(torch.ops.ussfast, "_locoformer_attention_backward") or any(a.requires_grad for a in weights):
        return False  # gradients of weights are those of the reference
    return args[-1] != "int8" and all(a.dtype == torch.float32 for a in (args[0], *weights))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    out, kept = torch.ops.ussfast._locoformer_attention_forward(*args)
    return out, (kept,)


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return torch.ops.ussfast._locoformer_attention_backward(grad, *kept, *args), *[None] * (len(args) - 1)


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
