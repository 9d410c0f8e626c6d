"""Band-split encoder: the bins of every band of a spectrum become one feature vector per frame."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import OpSpec, define


def band_split(
    spec: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight: Tensor,
    bias: Tensor,
    packed: Tensor | None = None,
    *,
    bands: Sequence[int],
    eps: float = 1e-5,
) -> Tensor:
    """Per band: a norm over all frames and re/im of the band's bins together, then a linear map to `dim` features.

    Args:
        spec: [batch, frames, bins, 2] (re, im), any floating dtype, any strides.
        norm_weight, norm_bias: [2 * bins], channels as in the spectrum: bin after bin, re before im.
        weight: flat, band after band [dim, 2 * width], each row by row.
        bias: [bands, dim].
        packed: of weight and bias, from `pack`, for the same bands; without it the CPU kernel packs them in every
            call. Other devices and the reference do not look at it.
        bands: widths in bins, low to high; they sum to `bins`.
        eps: added to the variance, which is biased (of the segment itself).
    Returns:
        [batch, frames, bands, dim], dtype of spec, contiguous.
    Raises:
        InputError (a ValueError): shapes and bands that do not fit together.
    Source: Luo & Yu, "Music source separation with band-split RNN", 2023.
    """
    check_bands("band_split", bands)
    bins, dim = sum(bands), bias.shape[-1]
    fits = (
        spec.dim() == 4
        and list(spec.shape[2:]) == [bins, 2]
        and norm_weight.numel() == norm_bias.numel() == 2 * bins
        and list(bias.shape) == [len(bands), dim]
        and list(weight.shape) == [2 * bins * dim]
    )
    if not fits:
        raise InputError(
            f"band_split of {len(bands)} bands with {bins} bins needs spec [batch, frames, {bins}, 2], {2 * bins} norm "
            f"weights and biases, bias [{len(bands)}, dim] and {2 * bins} * dim flat weights, got spec "
            f"{list(spec.shape)}, norm {norm_weight.numel()} and {norm_bias.numel()}, bias {list(bias.shape)}, "
            f"weight {list(weight.shape)}"
        )
    return SPEC(spec, norm_weight, norm_bias, weight, bias, packed, list(bands), eps)


def pack(weight: Tensor, bias: Tensor, bands: Sequence[int]) -> Tensor:
    """The weights as the CPU kernel of this machine wants them: bytes for `packed`, not for files."""
    return torch.ops.ussfast._pack_band_split(weight, bias, list(bands))


def check_bands(op: str, bands: Sequence[int]) -> None:
    if not bands or min(bands) < 1:
        raise InputError(f"{op} needs at least one band, each at least one bin wide, got {list(bands)}")


def runs(bands: Sequence[int]) -> list[tuple[int, int]]:
    """(width, count) of each run of equal neighbouring bands: their matrix products make one batched product."""
    return [(width, len(list(group))) for width, group in groupby(bands)]


def normalize(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """[batch, frames, bands, channels], each band over frames and channels -> [bands, batch * frames, channels]."""
    # Two passes (mean first): squares of raw band signals would cancel in float32.
    centred = x - x.mean((1, 3), keepdim=True)
    scale = (centred.square().mean((1, 3), keepdim=True) + eps).rsqrt()
    return (centred * scale * weight + bias).permute(2, 0, 1, 3).flatten(1, 2)


def grouped_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """[bands, rows, in] x [bands, out, in] + [bands, out] -> [bands, rows, out]."""
    return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))


def reference(
    spec: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, packed: Tensor | None,
    bands: Sequence[int], eps: float,
) -> Tensor:  # fmt: skip
    wide, dim = torch.promote_types(spec.dtype, torch.float32), bias.shape[1]
    channels, gamma, beta, w, b = (t.to(wide) for t in (spec.flatten(2), norm_weight, norm_bias, weight, bias))
    out, band, at = [], 0, 0
    for width, n in runs(bands):
        part, size = slice(at, at + 2 * width * n), (n, 2 * width)
        x = normalize(channels[..., part].unflatten(-1, size), gamma[part].view(size), beta[part].view(size), eps)
        matrices = w[at * dim : part.stop * dim].view(n, dim, 2 * width)
        out.append(grouped_linear(x, matrices, b[band : band + n]))
        band, at = band + n, part.stop
    return torch.cat(out).unflatten(1, spec.shape[:2]).permute(1, 2, 0, 3).contiguous().to(spec.dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(batch: int, frames: int, bands: list[int], dim: int, spec: Tensor | None = None):
        bins = sum(bands)
        return (
            draw(batch, frames, bins, 2) if spec is None else spec,
            draw(2 * bins).abs() + 0.5,
            draw(2 * bins) * 0.1,
            torch.cat([draw(dim * 2 * width) * (2 * width) ** -0.5 for width in bands]),
            draw(len(bands), dim) * 0.1,
            None,
            bands,
            1e-5,
        )

    # Frames of several blocks, batch and frames strided; narrow bands of two widths.
    yield case(2, 130, [1, 1, 2], 3, draw(130, 4, 2, 2).permute(2, 0, 1, 3))
    yield case(1, 1, [3], 35)  # one frame of one band; features of two panels
    yield case(3, 2, [130, 130], 2, draw(3, 2, 2, 520).permute(0, 2, 3, 1)[:, :, ::2])  # two groups, re/im scattered
    yield case(0, 2, [2], 3)  # empty batch


def flop(
    spec: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight: Tensor, bias: Tensor, packed: Tensor | None,
    bands: Sequence[int], eps: float,
) -> int:  # fmt: skip
    """The linear maps of all bands."""
    return 2 * spec.shape[0] * spec.shape[1] * weight.numel()


SPEC = define(
    OpSpec(
        "band_split",
        "(Tensor spec, Tensor norm_weight, Tensor norm_bias, Tensor weight, Tensor bias, Tensor? packed, int[] bands, "
        "float eps) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)
