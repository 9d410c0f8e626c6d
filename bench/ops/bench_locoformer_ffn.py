"""Feed-forward layers of TUSS medium: 567 frames of 61 bands; the convolving ones and the pointwise one."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS
from ussfast.ops.locoformer_ffn import pack

SPEC = OPS["locoformer_ffn"]
FRAMES, BANDS, CHANNELS, HIDDEN, GROUPS = 567, 61, 64, 384, 4
LEAST_SNR = 30  # dB of the branch, for the precision that rounds


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("kernel, axis", [(4, 1), (4, 2), (1, 1)])
def bench_locoformer_ffn(benchmark, interleaved, kernel, axis, precision):
    x = torch.randn(1, FRAMES, BANDS, CHANNELS)
    weights = (
        torch.rand(CHANNELS) + 0.5,
        torch.randn(2 * HIDDEN, CHANNELS, kernel) * (CHANNELS * kernel) ** -0.5,
        torch.randn(2 * HIDDEN) * 0.1,
        torch.randn(HIDDEN, CHANNELS, kernel) * (HIDDEN * kernel) ** -0.5,
        torch.randn(CHANNELS) * 0.1,
    )
    settings = axis, GROUPS, 1e-5, 1
    args = x, *weights, pack(*weights, GROUPS, precision), *settings, precision
    exact = x, *weights, None, *settings, "float32"
    with torch.inference_mode():  # never time a wrong result
        actual, expected = SPEC.overload(*args), SPEC.reference(*exact)
        if precision == "float32":
            torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
        else:
            snr = 20 * torch.log10((expected - x).norm() / (actual - expected).norm())
            assert snr > LEAST_SNR, f"{snr:.1f} dB"
    benchmark.group = f"locoformer_ffn/kernel{kernel}/axis{axis}"
    # The reference in float32 for both: emulating int8 is nothing that anybody would run for speed.
    interleaved(
        {"native": lambda: SPEC.overload(*args), "reference": lambda: SPEC.reference(*exact)},
        subject="native",
        flop=SPEC.flop(*args),
        rounds=5,
    )
