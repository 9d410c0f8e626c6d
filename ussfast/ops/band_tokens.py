"""The encoder of the causal model: features of the bins of a band become one token. It trains on the CPU too."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import round_bfloat16, under_autocast
from ussfast.ops.band_split import check_bands, runs

PRECISIONS = ("float32", "bfloat16")


def band_tokens(
    features: Tensor, weight: Tensor, *, bands: Sequence[int], dim: int, precision: str = "float32"
) -> Tensor:
    """A linear map per band from the features of its bins to one token.

    Args:
        features: [batch, frames, bins, features], any floating dtype, any strides.
        weight: flat, band after band [width * features, dim].
        bands: widths in bins, low to high.
        dim: of tokens.
        precision: of the products, "float32" or "bfloat16" (factors are rounded, sums are float32). Gradients take the
            same.
    Returns:
        [batch, frames, bands, dim], dtype of features, contiguous.
    Raises:
        InputError (a ValueError): shapes and bands that do not fit together, an unknown precision.
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    check_bands("band_tokens", bands)
    bins = sum(bands)
    fits = features.dim() == 4 and features.shape[2] == bins and weight.numel() == bins * features.shape[3] * dim
    if not fits or dim < 1:
        raise InputError(
            "band_tokens needs features [batch, frames, bins, features] and weight [bins * features * dim], got "
            f"features {list(features.shape)}, weight {list(weight.shape)}, dim {dim} and bands {list(bands)}"
        )
    return SPEC(features, weight, list(bands), dim, under_autocast(features, precision))


def reference(features: Tensor, weight: Tensor, bands: list[int], dim: int, precision: str) -> Tensor:
    wide = torch.promote_types(features.dtype, torch.float32)
    rows, matrices = features.to(wide).flatten(2), weight.to(wide).flatten()
    if precision == "bfloat16":
        rows, matrices = round_bfloat16(rows), round_bfloat16(matrices)
    parts, at = [], 0
    for width, n in runs(bands):
        size = n * width * features.shape[3]
        matrix = matrices[at * dim : (at + size) * dim].view(n, -1, dim)
        parts.append(torch.einsum("btnw,nwd->btnd", rows[..., at : at + size].unflatten(-1, (n, -1)), matrix))
        at += size
    return torch.cat(parts, 2).to(features.dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(batch: int, frames: int, bands: list[int], count: int, dim: int, features: Tensor | None = None):
        bins = sum(bands)
        features = draw(batch, frames, bins, count) if features is None else features
        return features, draw(bins * count * dim) * (count * max(bands)) ** -0.5, bands, dim, "float32"

    yield case(1, 3, [4, 4, 5], 3, 8)
    yield case(2, 5, [1, 2, 2, 9], 3, 5)  # tails of everything
    yield case(1, 1, [1], 2, 2)
    yield case(2, 130, [3, 2], 2, 4)  # more rows than a block takes
    yield case(1, 2, [33, 2], 2, 70)  # more of everything than a panel takes
    yield case(0, 3, [2, 2], 3, 4)  # empty batch
    features = torch.randn(2, 7, 8, 6, device=device, dtype=dtype).transpose(1, 2)[..., ::2]
    yield case(2, 8, [3, 4], 3, 6, features)


def flop(features: Tensor, weight: Tensor, bands: list[int], dim: int, precision: str) -> int:
    return 2 * features.shape[0] * features.shape[1] * weight.numel()


SPEC = define(
    OpSpec(
        "band_tokens",
        "(Tensor features, Tensor weight, int[] bands, int dim, str precision) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    loaded = hasattr(torch.ops.ussfast, "_band_tokens_backward")
    return loaded and all(a.dtype == torch.float32 for a in args if torch.is_tensor(a))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return SPEC.overload(*args), ()


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return *torch.ops.ussfast._band_tokens_backward(grad, *args), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
