"""Recurrence of the causal model as it is trained: some items of 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["gated_recurrence"]
FRAMES, BANDS, CHANNELS = 189, 24, 64


def arguments(batch):
    return (
        torch.randn(batch, FRAMES, BANDS, CHANNELS),
        torch.zeros(batch, BANDS, CHANNELS),
        torch.rand(CHANNELS) + 0.5,
        torch.randn(3 * CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        torch.cat((torch.linspace(-4, 0, CHANNELS), torch.zeros(2 * CHANNELS))),
        torch.randn(CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        1e-5,
    )


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_gated_recurrence(as_trained, precision, backward, batch):
    # In training the state begins as zeros that nothing learns.
    as_trained(SPEC, arguments(batch), precision, str(batch), backward, fixed=[1])
