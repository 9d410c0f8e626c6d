"""Masking and inverse STFT of six seconds at 48 kHz with two sources, as the medium TUSS model ends."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["stft_mask"]
FRAMES, SOURCES, N_FFT, HOP = 564, 2, 2048, 512


@pytest.mark.parametrize("masked", [True, False])
def bench_stft_mask(benchmark, interleaved, masked):
    mask, spec = (torch.randn(1, *more, FRAMES, N_FFT // 2 + 1, 2) for more in ((SOURCES,), ()))
    window, samples = torch.hann_window(N_FFT).sqrt(), (FRAMES - 1) * HOP
    args = mask, spec if masked else None, window, N_FFT, HOP, samples, False, False

    def istft():
        product = torch.view_as_complex(mask)
        if masked:
            product = product * torch.view_as_complex(spec)[:, None]
        flat = product.flatten(0, 1).transpose(1, 2)
        return torch.istft(flat, N_FFT, HOP, window=window, length=samples).unflatten(0, (1, SOURCES))

    for kernel in (lambda: SPEC.overload(*args), istft):  # never time a wrong result
        torch.testing.assert_close(kernel(), SPEC.reference(*args), rtol=1e-5, atol=1e-5)
    benchmark.group = "stft_mask"
    interleaved(
        {
            "native": lambda: SPEC.overload(*args),
            "reference": lambda: SPEC.reference(*args),
            "torch.istft": istft,
            "irfft": lambda: torch.fft.irfft(torch.view_as_complex(mask)),  # the floor: the transforms alone
        },
        subject="native",
    )


@pytest.mark.parametrize("alone", [True, False], ids=["backward", "forward-backward"])
def bench_gradient_of_mask(by_inputs, alone):
    mask, spec = (torch.randn(1, *more, FRAMES, N_FFT // 2 + 1, 2) for more in ((SOURCES,), ()))
    window, samples = torch.hann_window(N_FFT).sqrt(), (FRAMES - 1) * HOP
    by_inputs(SPEC, (mask, spec, window, N_FFT, HOP, samples, False, False), 1, "masked", alone)
