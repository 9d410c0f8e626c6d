"""Ops whose weights stay as they are: the gradient of the input alone is the same as beside all others."""

import pytest
import torch

from ussfast.ops import _op
from ussfast.ops._op import OPS, TRAINING

WEIGHTS = {"conv_ffn": 2, "band_masks": 1}  # place of the first argument that stays


@pytest.mark.skipif(_op.IMPL != "native", reason="the reference has no kernels")
@pytest.mark.parametrize("name", WEIGHTS)
def test_gradients_of_the_input_alone(name):
    spec, some = OPS[name], False
    torch.manual_seed(0)
    for given in spec.samples(torch.device("cpu"), torch.float32):
        if not TRAINING[name].takes(given):
            continue
        found = []
        for last in (WEIGHTS[name], len(given)):
            # Contiguous copies: what is given may be views of one another.
            args = [a.clone().requires_grad_(i < last) if torch.is_tensor(a) else a for i, a in enumerate(given)]
            out = spec._run(tuple(args))
            torch.manual_seed(1)
            out.backward(torch.randn_like(out))
            found.append([a.grad for a in args if torch.is_tensor(a)])
        frozen, every = found
        for i, a in enumerate(frozen):
            if i < sum(torch.is_tensor(a) for a in given[: WEIGHTS[name]]):
                assert torch.equal(a, every[i])
            else:
                assert a is None
        some = True
    assert some
