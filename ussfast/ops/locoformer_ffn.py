"""The convolutional SwiGLU feed-forward layer of TF-Locoformer, fused with its norm and residual; where weights stay as
they are, the gradient of the input has a kernel on the CPU."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import check_precision, round_bfloat16, round_int8, under_autocast
from ussfast.ops.rms_group_norm import reference as rms_reference

TRAINED = ("float32", "bfloat16")  # precisions that have a kernel for gradients


def locoformer_ffn(
    x: Tensor,
    norm_weight: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor,
    deconv_weight: Tensor,
    deconv_bias: Tensor,
    packed: Tensor | None = None,
    *,
    axis: int,
    groups: int,
    eps: float = 1e-5,
    stride: int = 1,
    precision: str = "float32",
) -> Tensor:
    """x + deconv(value * SiLU(gate)), where (value, gate) = conv(RMSGroupNorm(x)), along time or frequency.

    The convolution sees kernel - stride zeros before the sequence, and after it as many as it needs; the transposed
    convolution's output is cut by kernel - stride on the left, so both are centred together.

    Args:
        x: [batch, frames, bands, channels], any floating dtype, any strides.
        norm_weight: [channels].
        conv_weight, conv_bias: [2 * hidden, channels, kernel] and [2 * hidden], values before gates.
        deconv_weight, deconv_bias: [hidden, channels, kernel] and [channels].
        packed: of these weights, from `pack`, for the same groups and precision; without it the CPU kernel packs
            them in every call. Other devices and the reference do not look at it.
        axis: 1 runs along frames, 2 along bands.
        groups, eps: of the norm, see `rms_group_norm`.
        stride: of both convolutions, at most the kernel.
        precision: of the two matrix products: "float32", "bfloat16" or "int8" (weights per output channel, hidden
            activations per row; normalised ones have a known range). Norm, SwiGLU and residual are always float32.
            Gradients by the CPU kernel (of x alone, in float32 and bfloat16) take the same; it gives the derivative
            also where a group of channels is zero, for which the reference has none. int8 is derived as the reference.
    Returns:
        [batch, frames, bands, channels], dtype of x, contiguous.
    Raises:
        InputError (a ValueError): shapes that do not fit together, an unknown precision, a stride out of range.
    Source: Saijo et al., "TF-Locoformer", IWAENC 2024.
    """
    check_precision(precision)
    fits = (
        x.dim() == 4
        and conv_weight.dim() == deconv_weight.dim() == 3
        and x.shape[3] == norm_weight.numel() == conv_weight.shape[1] == deconv_weight.shape[1] == deconv_bias.numel()
        and conv_weight.shape[0] == conv_bias.numel() == 2 * deconv_weight.shape[0]
        and conv_weight.shape[2] == deconv_weight.shape[2]
        and groups >= 1
        and x.shape[3] % groups == 0
    )
    if not fits or axis not in (1, 2):
        raise InputError(
            "locoformer_ffn needs x [batch, frames, bands, channels], axis 1 or 2, conv_weight [2 * hidden, channels, "
            "kernel], deconv_weight [hidden, channels, kernel] and groups that divide channels, got "
            f"x {list(x.shape)}, axis {axis}, conv_weight {list(conv_weight.shape)}, "
            f"deconv_weight {list(deconv_weight.shape)}, groups {groups}"
        )
    if not 1 <= stride <= deconv_weight.shape[2]:
        raise InputError(f"stride {stride}: 1 to the kernel ({deconv_weight.shape[2]}) is possible")
    return SPEC(
        x, norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias, packed,
        axis, groups, eps, stride, under_autocast(x, precision),
    )  # fmt: skip


def pack(
    norm_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor, deconv_weight: Tensor, deconv_bias: Tensor,
    groups: int, precision: str,
) -> Tensor:  # fmt: skip
    """The weights as the CPU kernel of this machine wants them: bytes for `packed`, not for files."""
    return torch.ops.ussfast._pack_locoformer_ffn(
        norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias, groups, precision
    )


def reference(
    x: Tensor, norm_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor, deconv_weight: Tensor,
    deconv_bias: Tensor, packed: Tensor | None, axis: int, groups: int, eps: float, stride: int, precision: str,
) -> Tensor:  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    x, dtype = x.to(wide), x.dtype
    gamma, w1, b1, w2, b2 = (t.to(wide) for t in (norm_weight, conv_weight, conv_bias, deconv_weight, deconv_bias))
    turned = x.transpose(1, 2) if axis == 1 else x
    rows = turned.flatten(0, 1)
    if precision == "int8":  # the norm's weight goes into the convolution: what is left has a known range
        normal = rms_reference(rows, torch.ones_like(gamma), groups, eps)
        normal = round_int8(normal, (x.shape[3] // groups) ** 0.5)
        w1 = w1 * gamma[:, None]
        w1, w2 = round_int8(w1, w1.abs().amax((1, 2), keepdim=True)), round_int8(w2, w2.abs().amax(0))
    else:
        normal = rms_reference(rows, gamma, groups, eps)
    if precision == "bfloat16":
        normal, w1, w2 = (round_bfloat16(t) for t in (normal, w1, w2))
    y = convolve(normal, w1, b1, w2, b2, stride, precision)
    out = turned + y.unflatten(0, turned.shape[:2])
    return (out.transpose(1, 2) if axis == 1 else out).to(dtype)


def convolve(
    x: Tensor, w1: Tensor, b1: Tensor, w2: Tensor, b2: Tensor, stride: int = 1, precision: str = "float32"
) -> Tensor:
    """The layer between norm and residual: [sequences, length, channels] -> the same shape."""
    kernel, length = w1.shape[2], x.shape[1]

    def hidden(taps: Tensor) -> Tensor:
        value, gate = F.linear(taps, w1.transpose(1, 2).flatten(1), b1).chunk(2, -1)
        h = value * F.silu(gate)
        if precision == "bfloat16":
            h = round_bfloat16(h)
        elif precision == "int8":
            h = round_int8(h, h.abs().amax(-1, keepdim=True))
        return h

    if kernel == 1:
        return F.linear(hidden(x), w2[..., 0].t(), b2)
    # Convolution as one matrix product over gathered taps: the sequence stays channels-last.
    edge = kernel - stride
    steps = -(-(length + 2 * edge - kernel) // stride) + 1
    padded = F.pad(x, (0, 0, edge, (steps - 1) * stride + kernel - edge - length))
    taps = torch.cat([padded[:, j : j + (steps - 1) * stride + 1 : stride] for j in range(kernel)], -1)
    # The transposed convolution: one product into kernel * channels columns, then shifted adds.
    columns = F.linear(hidden(taps), w2.transpose(1, 2).flatten(1).t()).unflatten(-1, (kernel, -1))
    if stride == 1:
        # Row n of `columns`, tap j, belongs to position n + j - edge.
        parts = [columns[:, edge - j : edge - j + length, j] for j in range(kernel)]
        out = parts[0]
        for part in parts[1:]:
            out = out + part
        return out + b2
    out = x.new_zeros(x.shape[0], (steps - 1) * stride + kernel, x.shape[2])
    for j in range(kernel):
        out[:, j : j + (steps - 1) * stride + 1 : stride] += columns[:, :, j]
    return out[:, edge : edge + length] + b2


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def case(
        shape: tuple[int, ...], hidden: int, kernel: int, groups: int, axis: int, stride: int = 1,
        x: Tensor | None = None,
    ):  # fmt: skip
        channels = shape[-1]

        def draw(*size: int) -> Tensor:
            return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

        return (
            draw(*shape) if x is None else x,
            torch.rand(channels, device=device, dtype=torch.float64).to(dtype) + 0.5,
            draw(2 * hidden, channels, kernel) * (channels * kernel) ** -0.5,
            draw(2 * hidden) * 0.1,
            draw(hidden, channels, kernel) * (hidden * kernel) ** -0.5,
            draw(channels) * 0.1,
            None, axis, groups, 1e-5, stride, "float32",
        )  # fmt: skip

    yield case((1, 3, 5, 8), 6, 4, 2, 2)
    yield case((2, 7, 3, 8), 5, 4, 2, 1)  # hidden and channels with tails
    yield case((1, 2, 9, 12), 8, 1, 3, 2)  # kernel 1
    yield case((1, 1, 1, 6), 4, 4, 2, 1)  # one frame of one band, kernel longer than the sequence
    yield case((3, 2, 2, 8), 4, 4, 2, 2)  # kernel longer than the sequence
    yield case((1, 7, 2, 8), 4, 5, 2, 1, stride=2)
    yield case((1, 2, 10, 8), 4, 8, 2, 2, stride=4)
    yield case((0, 2, 4, 8), 4, 4, 2, 2)  # empty batch
    x = torch.randn(2, 4, 8, 6, device=device, dtype=dtype)  # strided bins, then scattered channels
    yield case((2, 3, 4, 8), 6, 4, 2, 2, x=x.permute(0, 3, 1, 2)[:, ::2])
    yield case((2, 4, 4, 6), 6, 4, 2, 1, x=x[:, :, ::2])


def flop(
    x: Tensor, norm_weight: Tensor, conv_weight: Tensor, conv_bias: Tensor, deconv_weight: Tensor,
    deconv_bias: Tensor, packed: Tensor | None, axis: int, groups: int, eps: float, stride: int, precision: str,
) -> int:  # fmt: skip
    """Both convolutions, with the rows that they have in common with the border."""
    batch, frames, bands, _ = x.shape
    length = frames if axis == 1 else bands
    rows = batch * frames * bands // max(length, 1) * -(-(length + conv_weight.shape[2] - stride) // stride)
    return 2 * rows * (conv_weight.numel() + deconv_weight.numel())


SPEC = define(
    OpSpec(
        "locoformer_ffn",
        "(Tensor x, Tensor norm_weight, Tensor conv_weight, Tensor conv_bias, Tensor deconv_weight, "
        "Tensor deconv_bias, Tensor? packed, int axis, int groups, float eps, int stride, str precision) "
        "-> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    x, *weights, _, _, _, _, _, precision = args
    floats = all(a.dtype == torch.float32 for a in (x, *weights))
    frozen = not any(a.requires_grad for a in weights)
    return hasattr(torch.ops.ussfast, "_locoformer_ffn_gradient") and floats and frozen and precision in TRAINED


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return SPEC.overload(*args), ()


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    x, norm, conv, conv_bias, deconv, _, _, *settings = args
    of_x = torch.ops.ussfast._locoformer_ffn_gradient(grad, x, norm, conv, conv_bias, deconv, *settings)
    return of_x, *(None for _ in args[1:])


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
