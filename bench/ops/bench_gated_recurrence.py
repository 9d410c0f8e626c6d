"""Recurrence of the causal model as it is trained: some items of 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["gated_recurrence"]
FRAMES, BANDS, CHANNELS = 189, 24, 64
# Distance from the reference in float32 over its norm.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}


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


def close(actual, expected, precision):
    return all((a - b).norm() <= TOL[precision] * b.norm() for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_forward(benchmark, interleaved, batch, precision):
    args = arguments(batch)
    with torch.inference_mode():
        assert close(SPEC(*args, precision), SPEC.reference(*args, "float32"), precision)

    def run(function, precision):
        with torch.inference_mode():
            return function(*args, precision)

    benchmark.group = f"gated_recurrence/forward/{batch}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=SPEC.flop(*args, precision),
        rounds=9,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_forward_and_backward(benchmark, interleaved, batch, precision):
    x, state, *weights, eps = arguments(batch)
    # In training the state begins as zeros that nothing learns.
    leaves, grad = [t.requires_grad_() for t in (x, *weights)], torch.randn_like(x)

    def run(function, precision):
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(function(x, state, *weights, eps, precision)[0], leaves, grad)

    assert close(run(SPEC, precision), run(SPEC.reference, "float32"), precision)
    benchmark.group = f"gated_recurrence/forward and backward/{batch}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=3 * SPEC.flop(x, state, *weights, eps, precision),
        rounds=9,
    )
