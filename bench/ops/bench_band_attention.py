"""Attention among bands of the causal model as it is trained: some items of 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["band_attention"]
FRAMES, BANDS, CHANNELS, HEADS = 189, 24, 64, 2


def arguments(batch):
    return (
        torch.randn(batch, FRAMES, BANDS, CHANNELS),
        torch.rand(CHANNELS) + 0.5,
        torch.randn(3 * CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        torch.randn(CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        HEADS,
        1e-5,
    )


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_band_attention(as_trained, precision, backward, batch):
    as_trained(SPEC, arguments(batch), precision, str(batch), backward)
