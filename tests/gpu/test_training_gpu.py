"""Gradients of every parameter on a GPU, through the kernels' backward passes, against plain PyTorch's."""

import pytest
import torch
from tiny import CAUSAL, STEREO, TUSS, tiny_model

from ussfast.ops import use_reference

pytestmark = [
    pytest.mark.gpu,
    # The interpreter's tests (tests/models/test_triton_models.py) stand in elsewhere.
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


def gradients(config, reference, autocast):
    model = tiny_model(config).cuda().train()
    torch.manual_seed(0)
    channels = getattr(config, "channels", 1)
    audio = torch.randn(*((2, channels, 3000) if channels > 1 else (2, 3000)), device="cuda")
    prompts = model.prompt_vectors(("speech", "sfx")) if model.prompt_names else None
    with use_reference(reference), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
        model.separate(audio, prompts).float().square().mean().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("autocast, tolerance", [(False, 1e-3), (True, 0.1)], ids=["float32", "bf16"])
@pytest.mark.parametrize("config", [TUSS, STEREO, CAUSAL], ids=["tuss", "sfc", "causal"])
def test_gradients_of_all_parameters(config, autocast, tolerance):
    found, expected = gradients(config, False, autocast), gradients(config, True, False)
    assert found.keys() == expected.keys() and len(found) > 20
    for name, gradient in expected.items():
        error = (found[name].float() - gradient).norm() / gradient.norm()
        assert error <= tolerance, f"{name}: {error:.1e}"
