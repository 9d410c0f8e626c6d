"""Triton kernels of ussfast.ops.band_tokens: a program has one band of BN frames. The gradient of the weight is one
batched product per run of equal bands."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._triton._bands import band_starts
from ussfast.ops._triton._call import Call, Tile, tile
from ussfast.ops._triton._causal_parts import TORCH, block, pad, wanted
from ussfast.ops._triton._launch import dot_types, launch
from ussfast.ops.band_split import runs
from ussfast.ops.band_tokens import reference


@triton.jit
def _band_tokens_fwd_kernel(
    features, weight, starts, y, rows, bins, count, dim,
    DP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    # A third axis of the grid has parts of the dimensions. count: features of a bin.
    row, band, d0 = tl.program_id(0) * BN, tl.program_id(1), tl.program_id(2) * DP
    first = tl.load(starts + band)
    width = (tl.load(starts + band + 1) - first) * count
    features += row.to(tl.int64) * bins * count + first * count
    weight += first.to(tl.int64) * count * dim
    out = tl.zeros((BN, DP), tl.float32)
    for k0 in range(0, width, BK):
        part = block(features, 0, rows - row, k0, width - k0, bins * count, BN, BK, DOT)
        matrix = block(weight, k0, width - k0, d0, dim - d0, dim, BK, DP, DOT)
        out = tl.dot(part, matrix, out, input_precision=PRECISION)
    r, d = row + tl.arange(0, BN)[:, None], d0 + tl.arange(0, DP)[None, :]
    at = (r.to(tl.int64) * tl.num_programs(1) + band) * dim + d
    tl.store(y + at, out.to(y.dtype.element_ty), (r < rows) & (d < dim))


@triton.jit
def _band_tokens_bwd_kernel(
    grad, weight, starts, d_features, rows, bins, count, dim,
    DP: tl.constexpr, DOT: tl.constexpr, PRECISION: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    row, band = tl.program_id(0) * BN, tl.program_id(1)
    first = tl.load(starts + band)
    width = (tl.load(starts + band + 1) - first) * count
    bands = tl.num_programs(1)
    grad += (row.to(tl.int64) * bands + band) * dim
    weight += first.to(tl.int64) * count * dim
    d_features += row.to(tl.int64) * bins * count + first * count
    r = tl.arange(0, BN)[:, None]
    for k0 in range(0, width, BK):
        out = tl.zeros((BN, BK), tl.float32)
        for d0 in range(0, dim, DP):
            part = block(grad, 0, rows - row, d0, dim - d0, bands * dim, BN, DP, DOT)
            matrix = block(weight, k0, width - k0, d0, dim - d0, dim, BK, DP, DOT)
            out = tl.dot(part, tl.trans(matrix), out, input_precision=PRECISION)
        k = k0 + tl.arange(0, BK)[None, :]
        tl.store(d_features + r * bins * count + k, out.to(d_features.dtype.element_ty), (r < rows - row) & (k < width))


def _takes(features: Tensor, weight: Tensor) -> bool:
    return 0 < features.numel() < 2**29 and torch.float64 not in (features.dtype, weight.dtype)


def _constants(features: Tensor, dim: int, precision: str) -> dict[str, Any]:
    dot, product = dot_types(features.dtype, precision)
    return {"DP": min(64, pad(dim)), "DOT": dot, "PRECISION": product}


def _tiles(rows: int) -> tuple[Tile, ...]:
    return (tile(4, 2, BN=16, BK=32),) if rows <= 16 else (tile(8, 2, BN=64, BK=32), tile(4, 2, BN=32, BK=32))


def band_tokens(features: Tensor, weight: Tensor, bands: list[int], dim: int, precision: str) -> Tensor:
    if not _takes(features, weight):
        return reference(features, weight, bands, dim, precision).contiguous()
    batch, frames, bins, count = features.shape
    constants, rows = _constants(features, dim, precision), batch * frames
    y = torch.empty(batch, frames, len(bands), dim, dtype=features.dtype, device=features.device)
    call = Call(
        _band_tokens_fwd_kernel,
        lambda t: (triton.cdiv(rows, t["BN"]), len(bands), triton.cdiv(dim, constants["DP"])),
        {"features": features.contiguous(), "weight": weight.contiguous(), "y": y, "rows": rows, "bins": bins}
        | {"starts": band_starts(bands, features.device), "count": count, "dim": dim},
        constants,
        _tiles(rows),
        matrix=True,
    )
    launch(call, features.device)
    return y


def band_tokens_backward(
    grad: Tensor, args: tuple[Any, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...] | None:
    """Gradients of both tensors where `need` asks for them, None for everything else."""
    features, weight, bands, dim, precision = args
    if not _takes(features, weight):
        return None
    batch, frames, bins, count = features.shape
    constants, rows, grad = _constants(features, dim, precision), batch * frames, grad.contiguous()
    found: dict[int, Tensor | None] = {}
    if need[0]:
        found[0] = torch.empty(features.shape, dtype=features.dtype, device=features.device)
        call = Call(
            _band_tokens_bwd_kernel,
            lambda t: (triton.cdiv(rows, t["BN"]), len(bands)),
            {"grad": grad, "weight": weight.contiguous(), "d_features": found[0], "rows": rows, "bins": bins}
            | {"starts": band_starts(bands, features.device), "count": count, "dim": dim},
            constants,
            _tiles(rows),
            matrix=True,
        )
        launch(call, features.device)
    if need[1]:
        dot = TORCH[constants["DOT"]]
        left, right = features.reshape(rows, bins * count).to(dot), grad.view(rows, len(bands), dim).to(dot)
        parts, at, band = [], 0, 0
        for width, n in runs(bands):
            size = n * width * count
            own = left[:, at : at + size].view(rows, n, width * count)
            parts.append(torch.einsum("rnk,rnd->nkd", own, right[:, band : band + n]).flatten())
            at, band = at + size, band + n
        found[1] = torch.cat(parts)
    return wanted(found, args, need)


# Widths in bins of the default model.
BANDS = [4] * 8 + [8] * 4 + [16] * 4 + [32] * 4 + [64] * 3 + [65]


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the model, and one frame of it."""
    for precision in ("bfloat16", "float32"):
        for frames in (376, 1):
            features = torch.empty(8, frames, sum(BANDS), 12, device="meta")
            args = features, features.new_empty(features.shape[2] * 12 * 64), BANDS, 64, precision
            yield f"{frames} frames, {precision}", band_tokens, args
            if frames > 1:
                grad = features.new_empty(8, frames, len(BANDS), 64)
                yield f"gradients, {precision}", band_tokens_backward, (grad, args, (True, True, False, False, False))
