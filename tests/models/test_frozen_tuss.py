"""TUSS with weights that stay: prompts get the gradients that plain PyTorch gives them."""

import pytest
import torch
from tiny import STFT, TUSS, tiny_model

from ussfast.ops import _op, use_reference
from ussfast.ops._op import record_ops

HAS_KERNELS = hasattr(torch.ops.ussfast, "_locoformer_ffn_gradient") and _op.IMPL == "native"


@pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")
def test_gradients_of_prompts_are_those_of_the_reference():
    model = tiny_model(TUSS).eval().requires_grad_(False)
    torch.manual_seed(0)
    spec = torch.randn(2, 9, STFT.n_fft // 2 + 1, dtype=torch.complex64)
    prompts = torch.randn(2, model.prompts.shape[1], requires_grad=True)
    found = []
    for plain in (True, False):
        with use_reference(plain), record_ops() as calls:
            out = model(spec, prompts)
            weight = torch.sin(torch.arange(out.numel())).view(out.shape)
            found.append(torch.autograd.grad(out, prompts, weight)[0])
        assert "locoformer_ffn" in {call.name for call in calls}
    expected, actual = found
    assert (actual - expected).norm() <= 1e-5 * expected.norm()
