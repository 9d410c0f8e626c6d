"""Attention layers of TUSS medium, along 567 frames and along 61 bands."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS
from ussfast.ops.locoformer_attention import pack

SPEC = OPS["locoformer_attention"]
FRAMES, BANDS, CHANNELS, WIDTH, HEADS, GROUPS = 567, 61, 64, 128, 4, 4


@pytest.mark.parametrize("axis", [1, 2])
def bench_locoformer_attention(benchmark, interleaved, axis):
    half = WIDTH // HEADS // 2
    weights = torch.randn(3 * WIDTH, CHANNELS) * CHANNELS**-0.5, torch.randn(CHANNELS, WIDTH) * WIDTH**-0.5
    args = (
        torch.randn(1, FRAMES, BANDS, CHANNELS),
        torch.rand(CHANNELS) + 0.5,
        *weights,
        10000 ** (-torch.arange(half) / half),
        pack(*weights, HEADS),
        *(axis, GROUPS, 1e-5, HEADS, False, 0, 0),
    )
    with torch.inference_mode():  # never time a wrong result
        torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=1e-5, atol=1e-5)
    benchmark.group = f"locoformer_attention/axis{axis}"
    interleaved(
        {"native": lambda: SPEC.overload(*args), "reference": lambda: SPEC.reference(*args)},
        subject="native",
        flop=SPEC.flop(*args),
        rounds=5,
    )
