"""Windowed frames of ring buffers and their spectra: the analysis of live streams, and of files, in one kernel."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast.errors import InputError
from ussfast.ops._op import OpSpec, define


def framed_stft(ring: Tensor, begin: Tensor, window: Tensor, *, n_fft: int, hop: int, frames: int) -> Tensor:
    """Spectra of the newest frames of many streams, each of which is at another place of its ring buffer.

    Frame t of a row is `ring[(begin + t * hop + i) % capacity]` for i from 0 to n_fft - 1, times the window. Spectra
    are those of torch.fft.rfft, without normalisation.

    Args:
        ring: [rows, capacity], any floating dtype, any strides.
        begin: [rows], int64: where the first frame of each row begins; any number, also a negative one.
        window: [window_length], at most n_fft, in whose middle it stands.
        n_fft: length of a frame in samples.
        hop: samples from one frame to the next.
        frames: per row; all of them together may not be longer than the ring.
    Returns:
        [rows, frames, n_fft // 2 + 1, 2] (re, im), contiguous, dtype of ring; computed in float32, or float64 for
        float64.
    Raises:
        InputError (a ValueError): shapes or sizes that do not fit together, begin is not int64, ring or window not
            floating point.
    """
    if ring.dim() != 2 or begin.shape != ring.shape[:1] or begin.dtype != torch.int64:
        raise InputError(
            "framed_stft needs ring [rows, capacity] and begin [rows] of dtype int64, got "
            f"ring {list(ring.shape)}, begin {list(begin.shape)} {begin.dtype}"
        )
    if window.dim() != 1 or not 0 < window.shape[0] <= n_fft or hop < 1 or frames < 1:
        raise InputError(
            "framed_stft needs window [window_length] with 0 < window_length <= n_fft, hop >= 1 and frames >= 1, got "
            f"window {list(window.shape)}, n_fft {n_fft}, hop {hop}, frames {frames}"
        )
    if (frames - 1) * hop + n_fft > ring.shape[1]:
        raise InputError(
            f"framed_stft: {frames} frames of {n_fft} samples with a hop of {hop} need a ring of at least "
            f"{(frames - 1) * hop + n_fft} samples, got ring {list(ring.shape)}"
        )
    if not (ring.is_floating_point() and window.is_floating_point()):
        raise InputError(f"framed_stft needs floating-point samples, got ring {ring.dtype}, window {window.dtype}")
    return SPEC(ring, begin, window, n_fft, hop, frames)


def reference(ring: Tensor, begin: Tensor, window: Tensor, n_fft: int, hop: int, frames: int) -> Tensor:
    capacity, wide = ring.shape[1], torch.promote_types(ring.dtype, torch.float32)
    steps = torch.arange(frames, device=ring.device)[:, None] * hop + torch.arange(n_fft, device=ring.device)
    at = ((begin % capacity)[:, None] + steps.flatten()) % capacity
    before = (n_fft - window.shape[0]) // 2
    shape = F.pad(window.to(wide), (before, n_fft - window.shape[0] - before))
    pieces = ring.gather(1, at).to(wide).unflatten(1, (frames, n_fft)) * shape
    if ring.shape[0] == 0:  # MKL's transform fails for an empty batch
        part = pieces[..., : n_fft // 2 + 1]
        return torch.stack((part, part), -1).to(ring.dtype)
    return torch.view_as_real(torch.fft.rfft(pieces)).to(ring.dtype)


def samples(device: torch.device, dtype: torch.dtype) -> Iterator[tuple[Any, ...]]:
    def case(
        begin: list[int], capacity: int, n_fft: int, hop: int, frames: int, window: int | None = None
    ) -> tuple[Any, ...]:
        ring = torch.randn(len(begin), capacity, device=device, dtype=torch.float64).to(dtype)
        shape = torch.rand(n_fft if window is None else window, device=device, dtype=torch.float64).to(dtype)
        return ring, torch.tensor(begin, device=device, dtype=torch.int64), shape, n_fft, hop, frames

    yield case([0, 5, 39], 40, 8, 4, 9)  # the last wraps around
    yield case([-3, 2**62 + 7], 31, 30, 1, 2, window=11)  # short window, all passes but 4 and 8, ring as long as can be
    yield case([17], 20, 20, 100, 1)  # one frame, whatever the hop
    yield case([1, 2], 50, 2, 3, 17, window=1)  # no pass at all
    yield case([1, 2], 50, 15, 3, 4)  # odd length
    yield case([4], 30, 14, 5, 3, window=9)  # a factor of 7
    yield case([], 16, 8, 4, 3)  # no rows
    ring, begin, window, *rest = case([3, 60, 7, 8], 66, 64, 2, 2)
    yield ring[::2], begin[1::2], window, *rest
    yield ring.t().contiguous().t(), begin, window.repeat_interleave(2)[::2], *rest


SPEC = define(
    OpSpec(
        "framed_stft",
        "(Tensor ring, Tensor begin, Tensor window, int n_fft, int hop, int frames) -> Tensor",
        reference,
        samples,
    )
)
