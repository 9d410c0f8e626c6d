"""Feed-forward layer of the causal model as it is trained: four items of 188 frames of 24 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["conv_ffn"]
BATCH, FRAMES, BANDS, CHANNELS, HIDDEN = 4, 188, 24, 64, 96
# Distance from the reference in float32 over its norm.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}


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


def close(actual, expected, precision):
    return all((a - b).norm() <= TOL[precision] * b.norm() for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2])
def bench_forward(benchmark, interleaved, axis, precision):
    args = arguments(axis)
    with torch.inference_mode():
        assert close([SPEC(*args, precision)], [SPEC.reference(*args, "float32")], precision)

    def run(function, precision):
        with torch.inference_mode():
            return function(*args, precision)

    benchmark.group = f"conv_ffn/forward/axis{axis}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=SPEC.flop(*args, precision),
        rounds=9,
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2])
def bench_forward_and_backward(benchmark, interleaved, axis, precision):
    *tensors, _, eps = arguments(axis)
    leaves = [t if t is None else t.requires_grad_() for t in tensors]
    wanted, grad = [t for t in leaves if t is not None], torch.randn(BATCH, FRAMES, BANDS, CHANNELS)

    def run(function, precision):
        with torch.inference_mode(False), torch.enable_grad():
            return torch.autograd.grad(function(*leaves, axis, eps, precision), wanted, grad)

    assert close(run(SPEC, precision), run(SPEC.reference, "float32"), precision)
    benchmark.group = f"conv_ffn/forward and backward/axis{axis}"
    interleaved(
        {"native": lambda: run(SPEC, precision), "reference": lambda: run(SPEC.reference, "float32")},
        subject="native",
        flop=3 * SPEC.flop(*tensors, axis, eps, precision),
        rounds=9,
    )
