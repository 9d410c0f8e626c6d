"""Group norm of one frame (streaming) and of about a second of a window, in the widths that models use; and the
gradient of its input alone."""

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the op)
from ussfast.ops._op import OPS

SPEC = OPS["rms_group_norm"]
COMPILED = torch.compile(SPEC.reference, dynamic=False)


@pytest.mark.parametrize("channels, groups", [(64, 8), (64, 4), (128, 4)])
@pytest.mark.parametrize("frames", [1, 125])
def bench_rms_group_norm(benchmark, interleaved, frames, channels, groups):
    x, weight = torch.randn(1, frames, 129, channels), torch.rand(channels)
    args = x, weight, groups, 1e-5
    for kernel in (SPEC.overload, COMPILED):  # never time a wrong result
        torch.testing.assert_close(kernel(*args), SPEC.reference(*args))
    benchmark.group = f"rms_group_norm/{frames}"
    interleaved(
        {
            "native": lambda: SPEC.overload(*args),
            "reference": lambda: SPEC.reference(*args),
            "torch.compile": lambda: COMPILED(*args),
            "copy": lambda: x.clone(),  # the floor: reading and writing every value once
        },
        subject="native",
    )


@pytest.mark.parametrize("channels, groups", [(64, 8), (64, 4), (128, 4)])
def bench_gradient_of_the_input(benchmark, interleaved, channels, groups):
    x, weight = torch.randn(1, 125, 129, channels, requires_grad=True), torch.rand(channels)
    grad = torch.randn(x.shape)
    kept = {"native": SPEC(x, weight, groups, 1e-5), "reference": SPEC.reference(x, weight, groups, 1e-5)}

    def backward(name):
        with torch.inference_mode(False):
            return torch.autograd.grad(kept[name], x, grad, retain_graph=True)[0]

    torch.testing.assert_close(backward("native"), backward("reference"), rtol=1e-5, atol=1e-5)
    benchmark.group = "rms_group_norm gradient"
    interleaved(
        {
            "native": lambda: backward("native"),
            "reference": lambda: backward("reference"),
            "add": lambda: x.detach() + grad,  # the floor: reading two and writing one
        },
        subject="native",
    )
