"""Attention layers of TUSS medium, along 567 frames and along 61 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS
from ussfast.ops.locoformer_attention import pack

SPEC = OPS["locoformer_attention"]
FRAMES, BANDS, CHANNELS, WIDTH, HEADS, GROUPS = 567, 61, 64, 128, 4, 4


def arguments(axis, precision):
    half = WIDTH // HEADS // 2
    weights = torch.randn(3 * WIDTH, CHANNELS) * CHANNELS**-0.5, torch.randn(CHANNELS, WIDTH) * WIDTH**-0.5
    gamma = torch.rand(CHANNELS) + 0.5
    return (
        torch.randn(1, FRAMES, BANDS, CHANNELS),
        gamma,
        *weights,
        10000 ** (-torch.arange(half) / half),
        pack(gamma, *weights, HEADS, GROUPS, precision),
        *(axis, GROUPS, 1e-5, HEADS, precision),
    )


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize("precision", ["float32", "int8"])
def bench_locoformer_attention(benchmark, interleaved, axis, precision):
    args = arguments(axis, precision)
    with torch.inference_mode():  # never time a wrong result
        # int8: what lies on the edge between two steps may fall to either side
        close = 1e-5 if precision == "float32" else 2e-2
        torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=close, atol=close)
    benchmark.group = f"locoformer_attention/axis{axis}/{precision}"
    interleaved(
        {"native": lambda: SPEC.overload(*args), "reference": lambda: SPEC.reference(*args)},
        subject="native",
        flop=SPEC.flop(*args),
        rounds=5,
    )


@pytest.mark.parametrize("alone", [True, False], ids=["backward", "forward-backward"])
@pytest.mark.parametrize("axis", [1, 2])
def bench_gradient_of_x(by_inputs, axis, alone):
    args = arguments(axis, "float32")
    # Backwards: each projection once, and four products with scores where the forward pass has two.
    scores = 4 * FRAMES * BANDS * (FRAMES if axis == 1 else BANDS) * WIDTH
    forward = SPEC.flop(*args)
    by_inputs(SPEC, args, 1, f"axis{axis}", alone, flop=forward + scores + (0 if alone else forward))
