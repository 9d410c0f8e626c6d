"""Triton kernels of ussfast.ops.stft_mask: masking of all sources and overlap-add around cuFFT's transform.

Where the CUDA C++ kernel that does all of it is built and takes the length, it does.
"""

from collections.abc import Callable, Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from ussfast.ops._fft import has_masked_istft
from ussfast.ops._triton._call import Call, tile
from ussfast.ops._triton._launch import launch
from ussfast.ops._triton._tuples import empty
from ussfast.ops.stft_mask import NOTHING, reference

# Sources whose masks a program can hold at once.
_MOST_SOURCES = 16


@triton.jit
def block(x, frame, bin_, frames, bins, by_frame, by_bin, by_pair):
    """Real and imaginary parts of a block, zeros around it; the last axis has the two."""
    at = frame.to(tl.int64) * by_frame + bin_.to(tl.int64) * by_bin + tl.arange(0, 2)[None, None, :] * by_pair
    return tl.load(x + at, (frame < frames) & (bin_ < bins), 0.0).to(tl.float32)


@triton.jit
def _stft_mask_fwd_product_kernel(
    mask, spec, product, frames, bins, last, m_item, m_source, m_frame, m_bin, m_pair, s_item, s_frame, s_bin, s_pair,
    SOURCES: tl.constexpr, FRAMES_INNER: tl.constexpr, CONSISTENCY: tl.constexpr, BLOCK_F: tl.constexpr,
    BLOCK_B: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(bins, BLOCK_B)
    item = tl.program_id(1).to(tl.int64)
    frame = tl.program_id(0) // across * BLOCK_F + tl.arange(0, BLOCK_F)
    bin_ = tl.program_id(0) % across * BLOCK_B + tl.arange(0, BLOCK_B)
    pair = tl.arange(0, 2)[None, None, :]
    masks = empty()
    for source in tl.static_range(SOURCES):
        start = mask + item * m_item + source * m_source
        # Neighbours among threads should be neighbours in memory, also where frames are innermost.
        if FRAMES_INNER:
            value = block(start, frame[None, :, None], bin_[:, None, None], frames, bins, m_frame, m_bin, m_pair)
            value = tl.permute(value, (1, 0, 2))
        else:
            value = block(start, frame[:, None, None], bin_[None, :, None], frames, bins, m_frame, m_bin, m_pair)
        masks += (value,)
    frame, bin_ = frame[:, None, None], bin_[None, :, None]
    missing = tl.zeros(masks[0].shape, tl.float32)
    if CONSISTENCY:
        total = masks[0]
        for source in tl.static_range(1, SOURCES):
            total += masks[source]
        missing = (tl.where(pair == 0, 1.0, 0.0) - total) / SOURCES
    if spec is not None:
        re, im = tl.split(block(spec + item * s_item, frame, bin_, frames, bins, s_frame, s_bin, s_pair))
    # Not every transform ignores the imaginary parts of real bins: the lowest, and that of half the rate.
    real = (pair == 1) & ((bin_ == 0) | (bin_ == last))
    target = (frame.to(tl.int64) * bins + bin_) * 2 + pair
    for source in tl.static_range(SOURCES):
        value = masks[source] + missing
        if spec is not None:
            a, b = tl.split(value)
            value = tl.join(a * re - b * im, a * im + b * re)
        value = tl.where(real, 0.0, value)
        start = (item * SOURCES + source) * frames * bins * 2
        tl.store(product + start + target, value, (frame < frames) & (bin_ < bins))


@triton.jit
def _stft_mask_fwd_overlap_kernel(
    signals, window, y, frames, n_fft, hop, samples, before, length, parts, nothing, BLOCK: tl.constexpr
):
    """Every sample sums the frames that reach it, the last of them first: in the same order wherever it runs."""
    signal = tl.program_id(1).to(tl.int64)
    start = tl.program_id(0).to(tl.int64) * BLOCK
    index = tl.arange(0, BLOCK)
    # In the frames' own time, the window of frame t begins t * hop samples after that of the first.
    at = start + n_fft // 2 - before
    newest = at // hop
    local = (at - newest * hop).to(tl.int32) + index
    own, offset = local // hop, local % hop
    signals += (signal * frames + newest) * n_fft + before
    total = tl.zeros((BLOCK,), tl.float32)
    weight = tl.zeros((BLOCK,), tl.float32)
    for j in range(parts):
        place = offset + j * hop
        frame = newest + own - j
        reached = (place < length) & (frame >= 0) & (frame < frames)
        shape = tl.load(window + place, reached, 0.0).to(tl.float32)
        total += shape * tl.load(signals + (own - j) * n_fft + place, reached, 0.0)
        weight += shape * shape
    enough = weight >= nothing
    out = tl.where(enough, total / tl.where(enough, weight, 1.0), 0.0)
    sample = start + index
    tl.store(y + signal * samples + sample, out.to(y.dtype.element_ty), sample < samples)


def stft_mask(
    mask: Tensor, spec: Tensor | None, window: Tensor, n_fft: int, hop: int, samples: int, normalized: bool,
    consistency: bool,
) -> Tensor:  # fmt: skip
    dtype = mask.dtype if spec is None else torch.promote_types(mask.dtype, spec.dtype)
    y = mask.new_empty(*mask.shape[:2], samples, dtype=dtype)
    if not y.numel():
        return y
    # Items and signals are the second axis of a grid.
    if dtype == torch.float64 or mask.shape[1] > _MOST_SOURCES or mask.shape[0] * mask.shape[1] > 65535:
        return reference(mask, spec, window, n_fft, hop, samples, normalized, consistency).contiguous()
    if mask.is_cuda and has_masked_istft(mask.device, n_fft):
        if consistency:
            mask, spec = masked(mask, spec, True, n_fft), None
        return torch.ops.ussfast._masked_istft(mask, spec, window, n_fft, hop, samples, normalized).to(dtype)
    _by_library(y, mask, spec, window.contiguous(), n_fft, hop, normalized, consistency)
    return y


def _by_library(
    y: Tensor, mask: Tensor, spec: Tensor | None, window: Tensor, n_fft: int, hop: int, normalized: bool,
    consistency: bool,
) -> None:  # fmt: skip
    """Fills y [batch, sources, samples] with two kernels around torch's transform, any n_fft."""
    product = masked(mask, spec, consistency, n_fft)
    signals = torch.fft.irfft(torch.view_as_complex(product), n_fft, norm="ortho" if normalized else "backward")
    overlap_add(y, signals.contiguous(), window, hop)


def masked(mask: Tensor, spec: Tensor | None, consistency: bool, n_fft: int) -> Tensor:
    """Spectra of the sources: [batch, sources, frames, bins, 2] float32, contiguous."""
    batch, sources, frames, bins, _ = mask.shape
    product = mask.new_empty(mask.shape, dtype=torch.float32)
    names = ("item", "source", "frame", "bin", "pair")
    strides = {f"m_{name}": n for name, n in zip(names, mask.stride(), strict=True)}
    of_spec = (0, 0, 0, 0) if spec is None else spec.stride()
    strides |= {f"s_{name}": n for name, n in zip(("item", "frame", "bin", "pair"), of_spec, strict=True)}
    inner = mask.stride(2) < mask.stride(3)
    arguments = {"mask": mask, "spec": spec, "product": product, "frames": frames, "bins": bins}
    call = Call(
        _stft_mask_fwd_product_kernel,
        lambda t: (triton.cdiv(frames, t["BLOCK_F"]) * triton.cdiv(bins, t["BLOCK_B"]), batch),
        arguments | strides | {"last": -1 if n_fft % 2 else bins - 1},
        {"SOURCES": sources, "FRAMES_INNER": inner, "CONSISTENCY": consistency},
        tuple(tile(warps, 1, BLOCK_F=f, BLOCK_B=b) for f, b, warps in _product_blocks(inner)),
    )
    launch(call, mask.device)
    return product


def _product_blocks(inner: bool) -> tuple[tuple[int, int, int], ...]:
    """Frames, bins and warps."""
    return ((16, 32, 4), (32, 16, 4), (32, 32, 8)) if inner else ((1, 512, 4), (1, 256, 4), (1, 1024, 8), (4, 128, 4))


def overlap_add(y: Tensor, signals: Tensor, window: Tensor, hop: int) -> None:
    """Fills y [batch, sources, samples]; signals [batch, sources, frames, n_fft] float32, contiguous."""
    samples, (frames, n_fft), length = y.shape[-1], signals.shape[2:], window.shape[0]
    sizes = {"frames": frames, "n_fft": n_fft, "hop": hop, "samples": samples, "before": (n_fft - length) // 2}
    call = Call(
        _stft_mask_fwd_overlap_kernel,
        lambda t: (triton.cdiv(samples, t["BLOCK"]), y.shape[0] * y.shape[1]),
        {"signals": signals, "window": window, "y": y, "length": length, "parts": triton.cdiv(length, hop)}
        | sizes
        | {"nothing": NOTHING},
        {},
        (tile(4, 1, BLOCK=1024), tile(4, 1, BLOCK=512), tile(8, 1, BLOCK=2048)),
    )
    launch(call, y.device)


def specimens() -> Iterator[tuple[str, Callable[..., object], tuple]]:
    """Six seconds of the default model (32 kHz, masks with frames innermost) and of TUSS (48 kHz)."""
    window = torch.empty(1280, device="meta")
    mask = torch.empty(641, 1, 3, 301, 2, device="meta").permute(1, 2, 3, 0, 4)
    spec = mask.new_empty(1, 301, 641, 2)
    for consistency in (False, True):
        yield f"default, {consistency}", stft_mask, (mask, spec, window, 1280, 640, 192_000, False, consistency)
    window = torch.empty(2048, device="meta")
    mask = torch.empty(1, 2, 564, 1025, 2, device="meta")
    yield "tuss", stft_mask, (mask, mask[:, 0], window, 2048, 512, 288_000, False, False)
