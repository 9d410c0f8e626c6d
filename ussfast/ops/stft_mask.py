"""Complex masks times the spectrum of the mixture, and the inverse STFT of the product, for all sources at once.

On the CPU the gradient of the mask, with a mixture that has none, has a kernel too.
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import TRAINING, OpSpec, Training, define

# torch.istft takes a sum of squared windows below this for zero, too.
NOTHING = 1e-11


def stft_mask(
    mask: Tensor,
    spec: Tensor | None,
    window: Tensor,
    *,
    n_fft: int,
    hop: int,
    samples: int,
    normalized: bool = False,
    consistency: bool = False,
) -> Tensor:
    """Audio of `mask * spec`: centred overlap-add, divided by the summed squared window.

    The same as torch.istft(center=True, length=samples), with one exception: that gives up if there are samples
    inside the frames that no window reaches (a sum of squares below 1e-11); here they are zero, as those behind the
    last frame are in both. Hann and square-root Hann windows with hops of up to a quarter of the window, as published
    models have them, reach every sample that was analysed: what only the end of a single window covers lies in the
    border of n_fft // 2 samples, which is cut off.

    Complex numbers are pairs of real ones, (re, im), along a last axis of 2.

    Args:
        mask: [batch, sources, frames, bins, 2], bins = n_fft // 2 + 1, any floating dtype, any strides.
        spec: [batch, frames, bins, 2], of the mixture; None if `mask` is the spectrum of each source already.
        window: [window_length], at most n_fft, in whose middle it stands.
        n_fft: length of a frame in samples.
        hop: samples from one frame to the next, at most window_length.
        samples: length to return, that of the analysed audio; frames are cut or zeros appended to it.
        normalized: the spectrum is that of an orthonormal transform (1 / sqrt(n_fft)), see torch.stft.
        consistency: corrects the masks in every bin by the same number for all sources, such that they add up to 1:
            the sources then add up to the inverse STFT of the mixture.
    Returns:
        [batch, sources, samples], contiguous, in the dtype of mask, or the wider one of mask and spec; computed in
        float32, or float64 for float64. Imaginary parts of real bins (the lowest, and that of half the rate) have
        no effect.
    Raises:
        InputError (a ValueError): shapes or sizes that do not fit together, no frame, not floating point,
            consistency without spec.
    Source of consistency: Wisdom et al., "Differentiable consistency constraints for improved deep speech
        enhancement", ICASSP 2019 (mixture consistency, in the domain of masks).
    """
    fits = (
        mask.dim() == 5
        and mask.shape[2] >= 1
        and mask.shape[3:] == (n_fft // 2 + 1, 2)
        and (spec is None or spec.shape == (mask.shape[0], *mask.shape[2:]))
    )
    if not fits:
        raise InputError(
            "stft_mask needs mask [batch, sources, frames, bins, 2] and spec [batch, frames, bins, 2] with "
            f"n_fft // 2 + 1 bins and at least one frame, got mask {list(mask.shape)}, "
            f"spec {None if spec is None else list(spec.shape)}, n_fft {n_fft}"
        )
    if window.dim() != 1 or not 0 < hop <= window.shape[0] <= n_fft or samples < 0:
        raise InputError(
            "stft_mask needs window [window_length] with 0 < hop <= window_length <= n_fft and samples >= 0, got "
            f"window {list(window.shape)}, hop {hop}, n_fft {n_fft}, samples {samples}"
        )
    tensors = [t for t in (mask, spec, window) if t is not None]
    if not all(t.is_floating_point() for t in tensors):
        raise InputError(
            "stft_mask needs floating-point tensors (torch.view_as_real of complex ones), got "
            + ", ".join(str(t.dtype) for t in tensors)
        )
    if consistency and spec is None:
        raise InputError("stft_mask corrects masks such that sources add up to the mixture: consistency needs spec")
    return SPEC(mask, spec, window, n_fft, hop, samples, normalized, consistency)


def reference(
    mask: Tensor, spec: Tensor | None, window: Tensor, n_fft: int, hop: int, samples: int, normalized: bool,
    consistency: bool,
) -> Tensor:  # fmt: skip
    narrow = mask.dtype if spec is None else torch.promote_types(mask.dtype, spec.dtype)
    wide = torch.promote_types(narrow, torch.float32)
    product = _complex(mask.to(wide))
    if consistency and mask.shape[1]:
        product = product + (1 - product.sum(1, keepdim=True)) / mask.shape[1]
    if spec is not None:
        product = product * _complex(spec.to(wide))[:, None]
    before = (n_fft - window.shape[0]) // 2
    shape = F.pad(window.to(wide), (before, n_fft - window.shape[0] - before))
    if product.numel() == 0:  # MKL's transform fails for an empty batch
        frames = F.pad(product.real, (0, n_fft - product.shape[-1]))
    else:
        frames = torch.fft.irfft(product, n_fft, norm="ortho" if normalized else "backward")
    out = _overlap_add(frames * shape, hop, samples)
    weight = _overlap_add(shape.square().expand(mask.shape[2], n_fft), hop, samples)
    reached = weight.abs() >= NOTHING
    # The inner choice keeps gradients of what is not reached finite.
    out = torch.where(reached, out / torch.where(reached, weight, 1.0), 0.0)
    return out.to(narrow)


def _complex(pairs: Tensor) -> Tensor:
    return torch.complex(pairs[..., 0], pairs[..., 1])


def _overlap_add(frames: Tensor, hop: int, samples: int) -> Tensor:
    """[..., frames, n_fft] -> [..., samples], from the middle of the first frame on."""
    count, n_fft = frames.shape[-2:]
    parts = -(-n_fft // hop)
    pieces = F.pad(frames, (0, parts * hop - n_fft)).unflatten(-1, (parts, hop))
    out = frames.new_zeros(*frames.shape[:-2], count + parts - 1, hop)
    for j in range(parts):
        out[..., j : j + count, :] += pieces[..., j, :]
    out = out.flatten(-2)[..., n_fft // 2 :]
    return F.pad(out, (0, samples - out.shape[-1]))


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def case(
        batch: int, sources: int, frames: int, n_fft: int, hop: int, length: int, window: int | None = None,
        normalized: bool = False, masked: bool = True, consistency: bool = False,
    ) -> tuple[Any, ...]:  # fmt: skip
        def draw(*size: int) -> Tensor:
            return torch.randn(size, device=device, dtype=torch.float64).to(dtype)

        bins = n_fft // 2 + 1
        return (
            draw(batch, sources, frames, bins, 2),
            draw(batch, frames, bins, 2) if masked else None,
            torch.rand(n_fft if window is None else window, device=device, dtype=torch.float64).to(dtype) + 0.5,
            n_fft, hop, length, normalized, consistency,
        )  # fmt: skip

    yield case(2, 2, 5, 8, 2, 16)
    # A short window, and a hop that does not divide n_fft.
    yield case(1, 3, 4, 12, 5, 18, window=7, normalized=True, consistency=True)
    yield case(1, 1, 1, 6, 6, 2)  # one frame, fewer samples
    yield case(0, 2, 3, 8, 2, 8)  # empty batch
    # Odd length; nothing reaches the first samples and those behind the last frame.
    yield case(2, 1, 3, 17, 3, 30, window=4, normalized=True, masked=False)
    yield case(1, 1, 1100, 2, 1, 1099)  # several blocks of frames
    mask, spec, *rest = case(2, 2, 4, 10, 3, 6)
    assert spec is not None
    planes = spec.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
    yield mask[:, :, ::2], planes[:, 1::2], *rest  # every other frame; scattered pairs
    mask, spec, *rest = case(1, 2, 5, 10, 3, 12, consistency=True)
    yield mask.permute(3, 1, 2, 0, 4).contiguous().permute(3, 1, 2, 0, 4), spec, *rest  # frames innermost
    yield case(2, 0, 3, 8, 2, 8, consistency=True)  # no source


SPEC = define(
    OpSpec(
        "stft_mask",
        "(Tensor mask, Tensor? spec, Tensor window, int n_fft, int hop, int samples, bool normalized, "
        "bool consistency) -> Tensor",
        reference,
        samples,
        train_on_reference=True,
    )
)


def _takes(args: tuple[Any, ...]) -> bool:
    mask, *fixed = (a for a in args if torch.is_tensor(a))
    if not hasattr(torch.ops.ussfast, "_stft_mask_backward") or any(a.requires_grad for a in fixed):
        return False  # gradients of the mixture are those of the reference
    return all(a.dtype == torch.float32 for a in (mask, *fixed))


def _forward(args: tuple[Any, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
    return SPEC.overload(*args), ()


def _backward(
    grad: Tensor, args: list[Any], kept: tuple[Tensor, ...], need: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    return torch.ops.ussfast._stft_mask_backward(grad, *args), *[None] * (len(args) - 1)


TRAINING[SPEC.name] = Training(_takes, _forward, _backward)
