"""Decoder of the causal model as it is trained: four items of four sources and 189 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["band_masks"]
BATCH, SOURCES, FRAMES, DIM, HIDDEN, FEATURES = 4, 4, 189, 64, 128, 12
BANDS = [4] * 8 + [8] * 4 + [16] * 4 + [32] * 4 + [64] * 3 + [65]
# Distance from the reference in float32 over its norm.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}


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


def close(actual, expected, precision):
    return all((a - b).norm() <= TOL[precision] * b.norm() for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_forward(benchmark, interleaved, precision):
    args = *arguments(), BANDS, 1e-5
    with torch.inference_mode():
        assert close([SPEC(*args, precision)], [SPEC.reference(*args, "float32")], precision)

    def run(function, precision):
        with torch.inference_mode():
            return function(*args, precision)

    benchmark.group = "band_masks/forward"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=SPEC.flop(*args, precision),
        rounds=9,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def bench_forward_and_backward(benchmark, interleaved, precision):
    leaves, settings = [t.requires_grad_() for t in arguments()], (BANDS, 1e-5)
    grad = torch.randn(BATCH, SOURCES, FRAMES, sum(BANDS), 2)

    def run(function, precision):
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(function(*leaves, *settings, precision), leaves, grad)

    assert close(run(SPEC, precision), run(SPEC.reference, "float32"), precision)
    benchmark.group = "band_masks/forward and backward"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=3 * SPEC.flop(*leaves, *settings, precision),
        rounds=9,
    )
