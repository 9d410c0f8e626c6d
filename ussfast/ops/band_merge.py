"""Band-split decoder: the feature vector of every frame and band becomes the band's bins, for every source."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import OpSpec, define
from ussfast.ops.band_split import check_bands, grouped_linear, normalize, runs

EPS = 1e-5  # of the norm; csrc/cpu/band_merge.cpp has the same


def band_merge(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    weight1: Tensor,
    bias1: Tensor,
    weight2: Tensor,
    bias2: Tensor,
    weight3: Tensor,
    bias3: Tensor,
    packed: Tensor | None = None,
    *,
    bands: Sequence[int],
    sources: int,
) -> Tensor:
    """Per band: a norm over all frames and features together, two tanh layers, and a GLU to re/im of bins and sources.

    Args:
        x: [batch, frames, bands, dim], any floating dtype, any strides.
        norm_weight, norm_bias: [bands, dim].
        weight1, bias1: [bands, hidden, dim] and [bands, hidden].
        weight2, bias2: [bands, hidden, hidden] and [bands, hidden].
        weight3: flat, band after band [4 * width * sources, hidden], each row by row. Rows: the values of the GLU,
            then its gates; each half has sources slowest, then re/im, then bins.
        bias3: flat, band after band [4 * width * sources].
        packed: of weights and biases 1 to 3, from `pack`, for the same bands and sources; without it the CPU kernel
            packs them in every call. Other devices and the reference do not look at it.
        bands: widths in bins, low to high.
        sources: at least 1.
    Returns:
        [batch, sources, frames, bins, 2] (re, im), dtype of x, contiguous.
    Raises:
        InputError (a ValueError): shapes, bands and sources that do not fit together.
    Source: Luo & Yu, "Music source separation with band-split RNN", 2023.
    """
    check_bands("band_merge", bands)
    count, dim, hidden, rows = len(bands), norm_weight.shape[-1], bias1.shape[-1], 4 * sum(bands) * sources
    fits = (
        sources >= 1
        and x.dim() == 4
        and list(x.shape[2:]) == list(norm_weight.shape) == list(norm_bias.shape) == [count, dim]
        and list(weight1.shape) == [count, hidden, dim]
        and list(weight2.shape) == [count, hidden, hidden]
        and list(bias1.shape) == list(bias2.shape) == [count, hidden]
        and list(weight3.shape) == [rows * hidden]
        and list(bias3.shape) == [rows]
    )
    if not fits:
        raise InputError(
            f"band_merge of {count} bands with {sum(bands)} bins to {sources} sources needs x [batch, frames, {count}, "
            f"dim], weight1 [{count}, hidden, dim], weight2 [{count}, hidden, hidden], {rows} * hidden flat weights in "
            f"weight3 and {rows} in bias3, got x {list(x.shape)}, norm {list(norm_weight.shape)} and "
            f"{list(norm_bias.shape)}, weights {list(weight1.shape)}, {list(weight2.shape)} and {list(weight3.shape)}, "
            f"biases {list(bias1.shape)}, {list(bias2.shape)} and {list(bias3.shape)}"
        )
    return SPEC(
        x, norm_weight, norm_bias, weight1, bias1, weight2, bias2, weight3, bias3, packed, list(bands), sources
    )  # fmt: skip


def pack(
    weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor, weight3: Tensor, bias3: Tensor,
    bands: Sequence[int], sources: int,
) -> Tensor:  # fmt: skip
    """The weights as the CPU kernel of this machine wants them: bytes for `packed`, not for files."""
    return torch.ops.ussfast._pack_band_merge(weight1, bias1, weight2, bias2, weight3, bias3, list(bands), sources)


def reference(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
    weight3: Tensor, bias3: Tensor, packed: Tensor | None, bands: Sequence[int], sources: int,
) -> Tensor:  # fmt: skip
    wide, hidden = torch.promote_types(x.dtype, torch.float32), bias1.shape[1]
    inner, gamma, beta = (t.to(wide) for t in (x, norm_weight, norm_bias))
    w1, b1, w2, b2, w3, b3 = (t.to(wide) for t in (weight1, bias1, weight2, bias2, weight3, bias3))
    h = grouped_linear(normalize(inner, gamma, beta, EPS), w1, b1).tanh()
    h = grouped_linear(h, w2, b2).tanh()
    out, band, at = [], 0, 0
    for width, n in runs(bands):
        rows = 4 * width * sources
        part = slice(at, at + n * rows)
        matrices = w3[at * hidden : part.stop * hidden].view(n, rows, hidden)
        y = F.glu(grouped_linear(h[band : band + n], matrices, b3[part].view(n, rows)), -1)
        y = y.view(n, x.shape[0], x.shape[1], sources, 2, width).permute(1, 3, 2, 0, 5, 4)
        out.append(y.flatten(3, 4))
        band, at = band + n, part.stop
    return torch.cat(out, 3).contiguous().to(x.dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def draw(*size: int) -> Tensor:
        return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

    def case(
        batch: int, frames: int, bands: list[int], dim: int, hidden: int, sources: int, x: Tensor | None = None
    ):  # fmt: skip
        count, rows = len(bands), 4 * sum(bands) * sources
        return (
            draw(batch, frames, count, dim) if x is None else x,
            draw(count, dim).abs() + 0.5,
            draw(count, dim) * 0.1,
            draw(count, hidden, dim) * dim**-0.5,
            draw(count, hidden) * 0.1,
            draw(count, hidden, hidden) * hidden**-0.5,
            draw(count, hidden) * 0.1,
            draw(rows * hidden) * hidden**-0.5,
            draw(rows) * 0.1,
            None,
            bands,
            sources,
        )

    # Frames of several blocks, batch and frames strided; half a panel of the last layer.
    yield case(2, 130, [1, 1, 2], 3, 4, 1, draw(130, 3, 2, 3).permute(2, 0, 1, 3))
    yield case(1, 1, [3], 6, 33, 2)  # one frame of one band; hidden units of two panels
    # Scattered channels; one panel and a half in the last layer.
    yield case(3, 2, [10, 10], 20, 3, 1, draw(3, 2, 20, 4).permute(0, 1, 3, 2)[:, :, ::2])
    yield case(0, 2, [2], 3, 4, 1)  # empty batch


def flop(
    x: Tensor, norm_weight: Tensor, norm_bias: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor,
    weight3: Tensor, bias3: Tensor, packed: Tensor | None, bands: Sequence[int], sources: int,
) -> int:  # fmt: skip
    """The three linear maps of all bands."""
    return 2 * x.shape[0] * x.shape[1] * (weight1.numel() + weight2.numel() + weight3.numel())


SPEC = define(
    OpSpec(
        "band_merge",
        "(Tensor x, Tensor norm_weight, Tensor norm_bias, Tensor weight1, Tensor bias1, Tensor weight2, Tensor bias2, "
        "Tensor weight3, Tensor bias3, Tensor? packed, int[] bands, int sources) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
        flop=flop,
    )
)
