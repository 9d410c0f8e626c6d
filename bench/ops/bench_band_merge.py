"""Decoder of the TUSS models: two prompts, six seconds of audio at 48 kHz, 61 bands, and a short segment."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.models.band_split import tuss_bands
from ussfast.ops._op import OPS
from ussfast.ops.band_merge import pack

SPEC = OPS["band_merge"]
BANDS, DIM, HIDDEN = list(tuss_bands(48000, 1025)), 64, 256


@pytest.mark.parametrize("frames", [32, 564])
def bench_band_merge(benchmark, interleaved, frames):
    count, rows = len(BANDS), 4 * sum(BANDS)
    norm = torch.rand(count, DIM) + 0.5, torch.randn(count, DIM) * 0.1
    weights = (
        torch.randn(count, HIDDEN, DIM) * DIM**-0.5,
        torch.randn(count, HIDDEN) * 0.1,
        torch.randn(count, HIDDEN, HIDDEN) * HIDDEN**-0.5,
        torch.randn(count, HIDDEN) * 0.1,
        torch.randn(rows * HIDDEN) * HIDDEN**-0.5,
        torch.randn(rows) * 0.1,
    )
    args = torch.randn(2, frames, count, DIM), *norm, *weights, pack(*weights, BANDS, 1), BANDS, 1
    with torch.inference_mode():  # never time a wrong result
        torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=1e-5, atol=1e-5)
    benchmark.group = f"band_merge/{frames}"
    interleaved(
        {"native": lambda: SPEC.overload(*args), "reference": lambda: SPEC.reference(*args)},
        subject="native",
        flop=2 * 2 * frames * (count * (DIM + HIDDEN) * HIDDEN + rows * HIDDEN),
    )
