"""The decoder of the causal model: band tokens become masks of bins, which features of the bins add to.

It trains on the CPU too.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define
from ussfast.ops._quantize import round_bfloat16, under_autocast
from ussfast.ops.band_split import check_bands, runs

PRECISIONS = ("float32", "bfloat16")


def band_masks(
    x: Tensor,
    features: Tensor,
    norm: Tensor,
    inner: Tensor,
    weigh: Tensor,
    outer: Tensor,
    bias: Tensor,
    *,
    bands: Sequence[int],
    eps: float = 1e-5,
    precision: str = "float32",
) -> Tensor:
    """Per band: h = value * SiLU(gate), (value, gate) = inner(RMSNorm(x)); masks are outer(h) + bias, plus the features
    of each bin times weigh(h), which all bins of the band share.

    Args:
        x: [batch, sources, frames, bands, dim], any floating dtype, any strides.
        features: [batch, frames, bins, features].
        norm: weight of the norm, [dim].
        inner: [bands, dim, 2 * hidden], values before gates.
        weigh: [bands, hidden, 2 * features], weights of the real part before those of the imaginary part.
        outer: flat, band after band [hidden, 2 * width]; columns are bins, real and imaginary part in turn.
        bias: [2 * bins], the same columns.
        bands: widths in bins, low to high.
        eps: of the norm, inside the root.
        precision: of the products with matrices, "float32" or "bfloat16" (factors are rounded, sums are float32). Norm,
            gated layer and weighing of features are always float32. Gradients take the same.
    Returns:
        [batch, sources, frames, bins, 2] (re, im), dtype of x, contiguous.
    Raises:
        InputError (a ValueError): shapes and bands that do not fit together, an unknown precision.
    Source: Shazeer, "GLU variants improve Transformer", 2020 (SwiGLU).
    """
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    check_bands("band_masks", bands)
    count, bins = len(bands), sum(bands)
    fits = (
        x.dim() == 5
        and features.dim() == 4
        and inner.dim() == weigh.dim() == 3
        and features.shape[:3] == (x.shape[0], x.shape[2], bins)
        and x.shape[3] == inner.shape[0] == weigh.shape[0] == count
        and x.shape[4] == norm.numel() == inner.shape[1]
        and inner.shape[2] == 2 * weigh.shape[1]
        and weigh.shape[2] == 2 * features.shape[3]
        and outer.numel() == 2 * bins * weigh.shape[1]
        and bias.numel() == 2 * bins
    )
    if not fits:
        raise InputError(
            "band_masks needs x [batch, sources, frames, bands, dim], features [batch, frames, bins, features], inner "
            "[bands, dim, 2 * hidden], weigh [bands, hidden, 2 * features] and outer [2 * bins * hidden], got "
            f"x {list(x.shape)}, features {list(features.shape)}, inner {list(inner.shape)}, "
            f"weigh {list(weigh.shape)}, outer {list(outer.shape)} and bands {list(bands)}"
        )
    return SPEC(x, features, norm, inner, weigh, outer, bias, list(bands), eps, under_autocast(x, precision))


def reference(
    x: Tensor, features: Tensor, norm: Tensor, inner: Tensor, weigh: Tensor, outer: Tensor, bias: Tensor,
    bands: list[int], eps: float, precision: str,
) -> Tensor:  # fmt: skip
    wide = torch.promote_types(x.dtype, torch.float32)
    dtype, hidden = x.dtype, weigh.shape[1]
    x, features, gamma, w1, w2, w3, b = (t.to(wide) for t in (x, features, norm, inner, weigh, outer, bias))
    y = F.rms_norm(x, (x.shape[4],), gamma, eps)
    if precision == "bfloat16":
        y, w1, w2, w3 = (round_bfloat16(t) for t in (y, w1, w2, w3))
    value, gate = torch.einsum("bstkc,kcd->bstkd", y, w1).chunk(2, -1)
    h = value * F.silu(gate)
    if precision == "bfloat16":
        h = round_bfloat16(h)
    weights = torch.einsum("bstkd,kdm->bstkm", h, w2).unflatten(-1, (2, features.shape[3]))
    parts, band, at = [], 0, 0
    for width, n in runs(bands):
        size = n * width
        matrices = w3.flatten()[2 * hidden * at : 2 * hidden * (at + size)].view(n, hidden, 2 * width)
        own = torch.einsum("bstnd,ndm->bstnm", h[..., band : band + n, :], matrices)
        own = own.unflatten(-1, (width, 2)) + b.flatten()[2 * at : 2 * (at + size)].view(n, width, 2)
        rows = features[:, :, at : at + size].unflatten(2, (n, width))
        more = torch.einsum("btnwf,bstnrf->bstnwr", rows, weights[..., band : band + n, :, :])
        parts.append((own + more).flatten(3, 4))
        band, at = band + n, at + size
    return torch.cat(parts, 3).to(dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(
        batch: int, sources: int, frames: int, bands: list[int], dim: int, hidden: int, features: int,
        x: Tensor | None = None, of_bins: Tensor | None = None,
    ):  # fmt: skip
        bins = sum(bands)
        return (
            draw(batch, sources, frames, len(bands), dim) if x is None else x,
            draw(batch, frames, bins, features) if of_bins is None else of_bins,
            torch.rand(dim, device=device, dtype=torch.float64).to(dtype) + 0.5,
            draw(len(bands), dim, 2 * hidden) * dim**-0.5,
            draw(len(bands), hidden, 2 * features) * (0.5 * (hidden * features) ** -0.5),
            draw(2 * bins * hidden) * (0.5 * hidden**-0.5),
            draw(2 * bins),
            bands, 1e-5, "float32",
        )  # fmt: skip

    yield case(1, 2, 3, [4, 4, 5], 8, 6, 3)
    yield case(2, 3, 2, [1, 2, 2, 9], 5, 7, 4)  # tails of everything
    yield case(1, 1, 1, [1], 4, 2, 2)
    yield case(1, 3, 70, [3, 17], 4, 4, 2)  # more rows than a block takes, more bins than a vector has lanes
    yield case(1, 2, 1, [33, 2], 6, 34, 19)  # more of everything than a panel takes
    yield case(0, 2, 3, [2, 2], 4, 4, 2)  # empty batch
    x = torch.randn(2, 4, 3, 2, 10, device=device, dtype=dtype)[..., ::2].transpose(1, 2)
    of_bins = torch.randn(2, 7, 4, 3, device=device, dtype=dtype).transpose(1, 2)
    yield case(2, 3, 4, [3, 4], 5, 6, 3, x, of_bins)


def flop(
    x: Tensor, features: Tensor, norm: Tensor, inner: Tensor, weigh: Tensor, outer: Tensor, bias: Tensor,
    bands: list[int], eps: float, precision: str,
) -> int:  # fmt: skip
    rows = x.shape[0] * x.shape[1] * x.shape[2]
    return 2 * rows * (inner.numel() + weigh.numel() + outer.numel() + bias.numel() * features.shape[3])


SPEC = define(
    OpSpec(
        "band_masks",
        "(Tensor x, Tensor features, Tensor norm, Tensor inner, Tensor weigh, Tensor outer, Tensor bias, int[] bands, "
        "float eps, str precision) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    loaded = hasattr(torch.ops.ussfast, "_band_masks_forward")
    return loaded and all(a.dtype == torch.float32 for a in args if torch.is_tensor(a))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    out, *kept = torch.ops.ussfast._band_masks_forward(*args)
    return out, tuple(kept)


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    frozen = not any(need[1:])  # a prompt is tuned: the weights stay as they are
    return *torch.ops.ussfast._band_masks_backward(grad, *kept, *args, frozen), None, None, None


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
