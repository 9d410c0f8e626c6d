"""Encoder of the TUSS models: six seconds of audio at 48 kHz, 61 bands, and a short segment."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.models.band_split import tuss_bands
from ussfast.ops._op import OPS
from ussfast.ops.band_split import pack

SPEC = OPS["band_split"]
BANDS, DIM = list(tuss_bands(48000, 1025)), 64


@pytest.mark.parametrize("frames", [32, 564])
def bench_band_split(benchmark, interleaved, frames):
    bins = sum(BANDS)
    weight = torch.cat([torch.randn(DIM * 2 * width) * (2 * width) ** -0.5 for width in BANDS])
    bias, spec = torch.randn(len(BANDS), DIM), torch.randn(1, frames, bins, 2)
    packed = pack(weight, bias, BANDS)
    args = spec, torch.rand(2 * bins) + 0.5, torch.randn(2 * bins), weight, bias, packed, BANDS, 1e-5
    with torch.inference_mode():  # never time a wrong result
        torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=1e-5, atol=1e-5)
    benchmark.group = f"band_split/{frames}"
    interleaved(
        {
            "native": lambda: SPEC.overload(*args),
            "reference": lambda: SPEC.reference(*args),
            "fill": lambda: torch.zeros(1, frames, len(BANDS), DIM),  # the floor: writing every result once
        },
        subject="native",
        flop=2 * frames * 2 * bins * DIM,
    )
