"""Feed-forward layers of TUSS medium: 567 frames of 61 bands; the convolving ones and the pointwise one. Forward, and
the gradient of the input alone, as when a prompt is tuned."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS
from ussfast.ops.locoformer_ffn import pack

SPEC = OPS["locoformer_ffn"]
FRAMES, BANDS, CHANNELS, HIDDEN, GROUPS = 567, 61, 64, 384, 4
LEAST_SNR = 30  # dB of the branch, for the precision that rounds
# Of 3 products of the forward pass: in the backward pass two are computed again and three are new.
BACKWARD = 5 / 3


def draw(kernel):
    return torch.randn(1, FRAMES, BANDS, CHANNELS), (
        torch.rand(CHANNELS) + 0.5,
        torch.randn(2 * HIDDEN, CHANNELS, kernel) * (CHANNELS * kernel) ** -0.5,
        torch.randn(2 * HIDDEN) * 0.1,
        torch.randn(HIDDEN, CHANNELS, kernel) * (HIDDEN * kernel) ** -0.5,
        torch.randn(CHANNELS) * 0.1,
    )


@pytest.mark.parametrize("precision", ["float32", "int8"])
@pytest.mark.parametrize("kernel, axis", [(4, 1), (4, 2), (1, 1)])
def bench_locoformer_ffn(benchmark, interleaved, kernel, axis, precision):
    x, weights = draw(kernel)
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


def kept_mb(function):
    """Of what a call keeps for its backward pass, weights and input included."""
    kept = {}

    def note(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        out = function()
    del out  # until here, so that no memory is used twice
    return round(sum(kept.values()) / 1e6, 1)


@pytest.mark.parametrize("whole", [False, True], ids=["backward", "forward-backward"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("kernel, axis", [(4, 1), (4, 2), (1, 1)])
def bench_gradient_of_the_input(benchmark, interleaved, kernel, axis, precision, whole):
    x, weights = draw(kernel)
    x.requires_grad_()
    args = x, *weights, None, axis, GROUPS, 1e-5, 1
    grad = torch.randn(x.shape)
    # The reference in float32 for both: it rounds for bfloat16, which takes time and saves none.
    functions = {"native": lambda: SPEC(*args, precision), "reference": lambda: SPEC.reference(*args, "float32")}
    kept = {name: function() for name, function in functions.items()}

    def gradient(name):
        with torch.inference_mode(False), torch.enable_grad():
            out = functions[name]() if whole else kept[name]
            return torch.autograd.grad(out, x, grad, retain_graph=True)[0]

    error = (gradient("native") - gradient("reference")).norm() / (gradient("reference") - grad).norm()
    assert error < {"float32": 1e-5, "bfloat16": 1e-2}[precision], f"{error:.2g}"  # never time a wrong result
    benchmark.group = f"locoformer_ffn gradient/kernel{kernel}/axis{axis}"
    benchmark.extra_info["kept_mb"] = {name: kept_mb(function) for name, function in functions.items()}
    interleaved(
        {"native": lambda: gradient("native"), "reference": lambda: gradient("reference")},
        subject="native",
        flop=(BACKWARD + whole) * SPEC.flop(*args, precision),
        rounds=5,
    )
