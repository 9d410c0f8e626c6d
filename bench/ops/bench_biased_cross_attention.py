"""Encoder and decoder of spectral feature compression: 500 frames of 1025 bins, 64 overlapping bands, 4 heads."""

import pytest
import torch

from ussfast.models.sfc import edge_bias
from ussfast.ops._op import OPS
from ussfast.ops.biased_cross_attention import pack

SPEC = OPS["biased_cross_attention"]
FRAMES, BINS, BANDS, HEADS, WIDTH = 500, 1025, 64, 4, 16


def overlapping_edges():
    """Bands that grow with frequency; each reaches into its neighbours."""
    cuts = torch.linspace(0, 1, BANDS + 1).square() * BINS
    return torch.stack([(cuts[:-1] - 8).clamp(min=0), (cuts[1:] + 8).clamp(max=BINS)], 1).long()


def arguments(bands_are, given):
    encoder = bands_are == "queries"
    queries, keys = (BANDS, BINS) if encoder else (BINS, BANDS)
    q = torch.randn(1 if encoder else FRAMES, queries, HEADS, WIDTH)
    k, v = (torch.randn(FRAMES, keys, HEADS, WIDTH) for _ in range(2))
    slope = 0.5 ** torch.arange(HEADS)
    distance = edge_bias(overlapping_edges(), BINS)
    bias = (distance if encoder else distance.t()).expand(HEADS, -1, -1).contiguous()
    return q, k, v, *((bias, slope, pack(bias, slope)) if given == "bias" else (None, None, None))


@pytest.mark.parametrize("given", ["bias", "none"])
@pytest.mark.parametrize("bands_are", ["queries", "keys"])
def bench_biased_cross_attention(benchmark, interleaved, bands_are, given):
    args = arguments(bands_are, given)
    with torch.inference_mode():  # never time a wrong result
        torch.testing.assert_close(SPEC.overload(*args), SPEC.reference(*args), rtol=1e-5, atol=1e-5)
    benchmark.group = f"biased_cross_attention/{bands_are}"
    interleaved(
        {"native": lambda: SPEC.overload(*args), "reference": lambda: SPEC.reference(*args)},
        subject="native",
        flop=SPEC.flop(*args),
        rounds=5,
    )


@pytest.mark.parametrize("alone", [True, False], ids=["backward", "forward-backward"])
@pytest.mark.parametrize("bands_are", ["queries", "keys"])
def bench_gradients_of_inputs(by_inputs, bands_are, alone):
    args = arguments(bands_are, "bias")
    by_inputs(SPEC, args, 3, bands_are, alone, flop=(2 if alone else 3) * SPEC.flop(*args))  # four products backwards
