"""Spectra of one hop of many streams, each at its own place of a ring, and of a file: analysis of the default model."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["framed_stft"]
N_FFT, HOP = 1280, 640


@pytest.mark.parametrize("rows, frames", [(1, 1), (64, 1), (1, 450)], ids=["stream", "pool", "file"])
def bench_framed_stft(benchmark, interleaved, rows, frames):
    ring = torch.randn(rows, (frames - 1) * HOP + 2 * N_FFT)
    begin, window = torch.randint(0, ring.shape[1], (rows,)), torch.hann_window(N_FFT).sqrt()
    args = ring, begin, window, N_FFT, HOP, frames
    torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=1e-5, atol=1e-4)
    pieces = torch.randn(rows, frames, N_FFT)
    benchmark.group = "framed_stft"
    interleaved(
        {
            "native": lambda: SPEC.overload(*args),
            "reference": lambda: SPEC.reference(*args),
            "rfft": lambda: torch.fft.rfft(pieces),  # the transforms alone
        },
        subject="native",
    )
