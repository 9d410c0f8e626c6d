"""Decoder of the causal model as it is trained: four items of four sources and 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["band_masks"]
BATCH, SOURCES, FRAMES, DIM, HIDDEN, FEATURES = 4, 4, 189, 64, 128, 12
BANDS = [4] * 8 + [8] * 4 + [16] * 4 + [32] * 4 + [64] * 3 + [65]


def arguments():
    bands, bins = len(BANDS), sum(BANDS)
    return (
        torch.randn(BATCH, SOURCES, FRAMES, bands, DIM),
        torch.randn(BATCH, FRAMES, bins, FEATURES),
        torch.rand(DIM) + 0.5,
        torch.randn(bands, DIM, 2 * HIDDEN) * DIM**-0.5,
        torch.randn(bands, HIDDEN, 2 * FEATURES) * (0.3 * (HIDDEN * FEATURES) ** -0.5),
        torch.randn(2 * bins * HIDDEN) * (0.3 * HIDDEN**-0.5),
        torch.randn(2 * bins),
    )


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_band_masks(as_trained, precision, backward):
    as_trained(SPEC, (*arguments(), BANDS, 1e-5), precision, "4", backward)
