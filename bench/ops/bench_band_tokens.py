"""Encoder of the causal model as it is trained: four items of 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["band_tokens"]
BATCH, FRAMES, DIM, FEATURES = 4, 189, 64, 12
BANDS = [4] * 8 + [8] * 4 + [16] * 4 + [32] * 4 + [64] * 3 + [65]


def arguments():
    bins = sum(BANDS)
    return torch.randn(BATCH, FRAMES, bins, FEATURES), torch.randn(bins * FEATURES * DIM) * (FEATURES * 20) ** -0.5


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_band_tokens(as_trained, precision, backward):
    as_trained(SPEC, (*arguments(), BANDS, DIM), precision, "4", backward)
