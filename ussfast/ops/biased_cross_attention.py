"""Cross-attention between bands and bins, with a bias per head.

On the CPU gradients of q, k and v, with bias and slope that stay as they are, have kernels too.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops.locoformer_attention import mix


def biased_cross_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor | None = None,
    slope: Tensor | None = None,
    packed: Tensor | None = None,
) -> Tensor:
    """softmax(q k^T / sqrt(width) + slope * bias) v for every head.

    Args:
        q: [batch, queries, heads, width], any floating dtype, any strides; [1, ...] is shared by the whole batch.
        k, v: [batch, keys, heads, width], at least one key.
        bias: [heads, queries, keys], added to the scores (so in nats); -inf hides a key whatever the slope. Every
            query must see at least one key.
        slope: [heads], multiplies the bias; None is 1 for every head.
        packed: of bias and slope, from `pack`; without it the CPU kernel packs them in every call. Other devices and
            the reference do not look at it.
    Returns:
        [batch, queries, heads * width], dtype of q, contiguous; computed in float32, or float64 for float64. The
        CPU kernel never has the scores of all keys in memory at once.
    Raises:
        InputError (a ValueError): shapes that do not fit together, slope or packed without bias.
    Source: Saijo & Bando, "Spectral Feature Compression", IEEE TASLP 2026 (arXiv 2602.08671); Press et al., "Train
        Short, Test Long" (ALiBi), 2022; Dao et al., "FlashAttention", 2022 (softmax over blocks of keys).
    """
    fits = (
        q.dim() == k.dim() == 4
        and k.shape == v.shape
        and q.shape[2:] == k.shape[2:]
        and q.shape[0] in (1, k.shape[0])
        and min(k.shape[1:]) >= 1
        and (bias is None or list(bias.shape) == [q.shape[2], q.shape[1], k.shape[1]])
        and (slope is None or list(slope.shape) == [q.shape[2]])
    )
    if not fits:
        raise InputError(
            "biased_cross_attention needs q [batch or 1, queries, heads, width], k and v [batch, keys, heads, width], "
            f"bias [heads, queries, keys] and slope [heads], got q {list(q.shape)}, k {list(k.shape)}, v "
            f"{list(v.shape)}, bias {_shape(bias)}, slope {_shape(slope)}"
        )
    if bias is None and slope is not None:
        raise InputError("slope multiplies a bias, but no bias was given")
    if bias is None and packed is not None:
        raise InputError("packed is made from a bias, but no bias was given")
    return SPEC(q, k, v, bias, slope, packed)


def _shape(x: Tensor | None) -> list[int] | None:
    return None if x is None else list(x.shape)


def pack(bias: Tensor, slope: Tensor | None = None) -> Tensor:
    """The bias as the CPU kernel of this machine wants it: bytes for `packed`, not for files."""
    return torch.ops.ussfast._pack_biased_cross_attention(bias, slope)


def reference(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, slope: Tensor | None, packed: Tensor | None
) -> Tensor:
    wide, dtype = torch.promote_types(q.dtype, torch.float32), q.dtype
    if bias is not None:
        # -inf stays out of products: with a slope of 0 it would give NaN, and so would gradients.
        hidden = bias == float("-inf")
        bias = bias.to(wide).masked_fill(hidden, 0)
        if slope is not None:
            bias = bias * slope.to(wide)[:, None, None]
        bias = bias.masked_fill(hidden, float("-inf"))
    q, k, v = (t.to(wide).transpose(1, 2) for t in (q.expand(k.shape[0], -1, -1, -1), k, v))
    return mix(q, k, v, None if bias is None else bias[None]).transpose(1, 2).flatten(2).to(dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(
        batch: int, queries: int, keys: int, heads: int, width: int, bias: Tensor | None = None, slope: bool = False,
        shared: bool = False,
    ):  # fmt: skip
        return (
            draw(1 if shared else batch, queries, heads, width),
            draw(batch, keys, heads, width),
            draw(batch, keys, heads, width),
            bias,
            draw(heads).abs() if slope else None,
            None,
        )

    yield case(2, 3, 5, 2, 4, bias=draw(2, 3, 5), slope=True, shared=True)
    yield case(2, 19, 37, 1, 3)  # no bias; tails everywhere
    hidden = draw(3, 5, 9)
    hidden[:, :, 4] = hidden[0, 1, 1:] = float("-inf")
    yield case(1, 5, 9, 3, 5, bias=hidden)
    yield case(2, 5, 9, 3, 2, bias=hidden, slope=True)
    yield case(1, 1, 1, 1, 1, bias=draw(1, 1, 1))  # one query, one key
    yield case(0, 3, 4, 2, 4, shared=True)  # empty batch
    # Heads before positions, then scattered channels and a bias with queries innermost.
    q, k, v = draw(2, 3, 4, 5).transpose(1, 2), draw(2, 3, 6, 5).transpose(1, 2), draw(2, 6, 3, 10)[..., ::2]
    yield q, k, v, draw(3, 6, 4).transpose(1, 2), None, None
    yield draw(1, 5, 5, 3).transpose(2, 3), k, v, None, None, None


def flop(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, slope: Tensor | None, packed: Tensor | None) -> int:
    """Scores and the mixture of values."""
    return 2 * q.shape[1] * (k.numel() + v.numel())


SPEC = define(
    OpSpec(
        "biased_cross_attention",
        "(Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? slope, Tensor? packed) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    fixed = [a for a in args[3:5] if a is not None]
    if not hasattr(torch.ops.ussfast, "_biased_cross_attention_backward") or any(a.requires_grad for a in fixed):
        return False  # gradients of bias and slope are those of the reference
    return all(a.dtype == torch.float32 for a in (*args[:3], *fixed))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    out, kept = torch.ops.ussfast._biased_cross_attention_forward(*args)
    return out, (out, kept)


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return *torch.ops.ussfast._biased_cross_attention_backward(grad, *kept, *args), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
