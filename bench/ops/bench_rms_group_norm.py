"""Group norm of one frame (streaming) and of about a second of a window, in the widths that models use."""

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
