"""Feed-forward layer of the causal model as it is trained: four items of 188 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["conv_ffn"]
BATCH, FRAMES, BANDS, CHANNELS, HIDDEN = 4, 188, 24, 64, 96


def arguments(axis):
    return (
        torch.randn(BATCH, FRAMES, BANDS, CHANNELS),
        torch.randn(BATCH, 2, BANDS, CHANNELS) if axis == 1 else None,
        torch.rand(CHANNELS) + 0.5,
        torch.randn(2 * HIDDEN, 3 * CHANNELS) * (3 * CHANNELS) ** -0.5,
        torch.randn(2 * HIDDEN) * 0.1,
        torch.randn(CHANNELS, HIDDEN) * HIDDEN**-0.5,
        torch.randn(CHANNELS) * 0.1,
        axis,
        1e-5,
    )


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2])
def bench_conv_ffn(as_trained, precision, backward, axis):
    as_trained(SPEC, arguments(axis), precision, f"axis{axis}", backward)
