"""RMS normalisation over groups of channels, the norm of the TF-Locoformer family."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define


def rms_group_norm(x: Tensor, weight: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """Scales each channel group of every time-frequency bin to unit RMS, then weights it.

    eps is added outside the root: published checkpoints rely on it.

    Args:
        x: [..., channels], any floating dtype, any strides.
        weight: [channels], any floating dtype, on the device of x.
        groups: number of equal groups; must divide channels.
        eps: added to the RMS, in the unit of x.
    Returns:
        [..., channels], dtype of x, contiguous; computed in float32, or float64 for float64. The gradient of x
        alone, and on a GPU all gradients, come from kernels: these give the derivative also where a group is zero, for
        which the reference has none.
    Raises:
        InputError (a ValueError): groups does not divide channels, weight is not [channels], or the tensors
            are not floating point.
    Source: Saijo et al., "TF-Locoformer", IWAENC 2024 (RMSGroupNorm).
    """
    channels = x.shape[-1] if x.dim() else 0
    if groups < 1 or channels < 1 or channels % groups or weight.shape != x.shape[-1:]:
        raise InputError(
            "rms_group_norm needs x [..., channels], weight [channels] and groups that divide channels, got "
            f"x {list(x.shape)}, weight {list(weight.shape)}, groups {groups}"
        )
    if not (x.is_floating_point() and weight.is_floating_point()):
        raise InputError(f"rms_group_norm needs floating-point tensors, got {x.dtype} and {weight.dtype}")
    return SPEC(x, weight, groups, eps)


def reference(x: Tensor, weight: Tensor, groups: int, eps: float) -> Tensor:
    wide = torch.promote_types(x.dtype, torch.float32)
    grouped = x.to(wide).unflatten(-1, (groups, -1))
    rms = grouped.square().mean(-1, keepdim=True).sqrt()
    return ((grouped / (rms + eps)).flatten(-2) * weight.to(wide)).to(x.dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def case(*shape: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(shape, device=device, dtype=dtype)
        return x, torch.rand(shape[-1], device=device, dtype=dtype) + 0.5

    for shape, groups in (((2, 5, 16), 4), ((1, 3, 7, 21), 3), ((1, 1), 1), ((6,), 2), ((3, 66), 1), ((70, 24), 3)):
        yield *case(*shape), groups, 1e-5
    for width in (8, 16, 32):  # the widths that kernels specialise
        yield *case(2, 3, 2 * width), 2, 1e-5
    x, weight = case(2, 3, 4, 16)  # transposed bins, scattered channels, a slice
    yield x.transpose(1, 2), weight, 2, 1e-5
    yield case(2, 12, 5)[0].mT, weight[:12], 4, 1e-5
    yield x[:, 1:, ::2, 2:14], weight[2:14], 3, 1e-5


SPEC = define(
    OpSpec("rms_group_norm", "(Tensor x, Tensor weight, int groups, float eps) -> Tensor", reference, samples)
)


def _takes(args: tuple[Any, ...]) -> bool:
    x, weight, *_ = args
    loaded = hasattr(torch.ops.ussfast, "_rms_group_norm_gradient")
    return loaded and x.dtype == weight.dtype == torch.float32 and not weight.requires_grad


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return SPEC.overload(*args), ()


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return torch.ops.ussfast._rms_group_norm_gradient(grad, *args), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
