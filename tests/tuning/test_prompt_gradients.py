"""Prompts of TUSS with weights that stay: gradients through the kernels are those of plain PyTorch."""

import pytest
import torch
from tiny import TUSS, TUSS_SFC, tiny_model

from ussfast import stft
from ussfast.ops import use_reference
from ussfast.tuning.frozen import twin

TOL = 1e-5  # distance over the norm


@pytest.mark.parametrize("config", [TUSS, TUSS_SFC], ids=["bands", "sfc"])
def test_gradients_of_prompts(config):
    model = twin(tiny_model(config)).eval()
    samples, found = 8000, []
    spec, _ = model.analyze(torch.randn(2, samples))
    start = torch.randn_like(model.prompt_vectors(("speech", "sfx")))
    for plain in (True, False):
        prompts = start.clone().requires_grad_()
        with use_reference(plain):
            audio = stft.synthesize(model(spec, prompts), config.stft, samples, spec if model.masking else None)
            (audio * torch.sin(torch.arange(samples))).sum().backward()
        found.append(prompts.grad)
    assert (found[0] - found[1]).norm() <= TOL * found[0].norm()
    assert all(p.grad is None for p in model.parameters())
