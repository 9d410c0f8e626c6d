"""Attention among bands of the causal model as it is trained: some items of 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["band_attention"]
FRAMES, BANDS, CHANNELS, HEADS = 189, 24, 64, 2
# Distance from the reference in float32 over its norm.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}


def arguments(batch):
    return (
        torch.randn(batch, FRAMES, BANDS, CHANNELS),
        torch.rand(CHANNELS) + 0.5,
        torch.randn(3 * CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        torch.randn(CHANNELS, CHANNELS) * (3 * CHANNELS) ** -0.5,
        HEADS,
        1e-5,
    )


def close(actual, expected, precision):
    return all((a - b).norm() <= TOL[precision] * b.norm() for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_forward(benchmark, interleaved, batch, precision):
    args = arguments(batch)
    with torch.inference_mode():
        assert close([SPEC(*args, precision)], [SPEC.reference(*args, "float32")], precision)

    def run(function, precision):
        with torch.inference_mode():
            return function(*args, precision)

    benchmark.group = f"band_attention/forward/{batch}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=SPEC.flop(*args, precision),
        rounds=9,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("batch", [4, 12])
def bench_forward_and_backward(benchmark, interleaved, batch, precision):
    *tensors, heads, eps = arguments(batch)
    leaves, grad = [t.requires_grad_() for t in tensors], torch.randn_like(tensors[0])

    def run(function, precision):
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(function(*leaves, heads, eps, precision), leaves, grad)

    assert close(run(SPEC, precision), run(SPEC.reference, "float32"), precision)
    benchmark.group = f"band_attention/forward and backward/{batch}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=3 * SPEC.flop(*leaves, heads, eps, precision),
        rounds=9,
    )
