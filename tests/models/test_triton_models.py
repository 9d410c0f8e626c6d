"""Whole models on the Triton kernels, run by its interpreter: what a GPU would launch, with the models' own strides.

The plain reference is the truth; that it equals the published implementations is tested next door. The interpreter is
slow: a few frames have to do.
"""

import importlib
import importlib.util

import pytest
import torch
from golden_io import assert_close
from tiny import CAUSAL, STEREO, TUSS, tiny_model

from ussfast.models._packed import prepare
from ussfast.ops import use_reference
from ussfast.ops._op import OPS, OpSpec

# triton is an extra; `make test` installs it, so this runs in CI.
pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

FLOAT32, BF16, GRADIENT = 1e-4, 5e-2, 1e-3  # of the largest value; random weights amplify what bf16 rounds


class Kernel(torch.autograd.Function):
    """An op with its backward pass as the CUDA dispatcher key has them."""

    @staticmethod
    def forward(ctx, module, name, *args):
        ctx.module, ctx.name, ctx.args = module, name, args
        return getattr(module, name)(*args)

    @staticmethod
    def backward(ctx, *grads):
        need = ctx.needs_input_grad[2:]
        given = grads if len(grads) > 1 else grads[0]
        found = getattr(ctx.module, f"{ctx.name}_backward")(given, ctx.args, need)
        assert found is not None, f"{ctx.name} has no backward pass for these arguments"
        return None, None, *found


@pytest.fixture
def launched(monkeypatch):
    """Ops run their Triton launchers on CPU tensors; the names of those that did."""
    names = []

    def run(self, args):
        if importlib.util.find_spec(f"ussfast.ops._triton.{self.name}") is None:
            return self.reference(*args)
        names.append(self.name)
        module = importlib.import_module(f"ussfast.ops._triton.{self.name}")
        if torch.is_grad_enabled() and hasattr(module, f"{self.name}_backward"):
            return Kernel.apply(module, self.name, *args)
        return self.reference(*args) if torch.is_grad_enabled() else getattr(module, self.name)(*args)

    monkeypatch.setattr(OpSpec, "_run", run)
    return names


@pytest.mark.parametrize("precision, tolerance", [("float32", FLOAT32), ("bfloat16", BF16)])
@pytest.mark.parametrize("config", [TUSS, STEREO], ids=["tuss", "sfc"])
def test_prepared_models(launched, config, precision, tolerance):
    model = tiny_model(config).eval()
    channels = getattr(config, "channels", 1)
    audio = torch.randn(*((1, channels, 400) if channels > 1 else (1, 400)))
    prompts = model.prompt_vectors(("speech", "sfx")) if model.prompt_names else None
    with torch.inference_mode():
        prepare(model, precision)
        found = model.separate(audio, prompts)
        names = set(launched)
        prepare(model, "float32")
        for module in model.modules():
            if hasattr(module, "precision"):
                module.precision = "float32"
    expected = reference(model, audio, prompts)
    assert_close(found, expected, tolerance)
    assert {"locoformer_ffn", "locoformer_attention", "stft_mask"} <= names
    assert ("biased_cross_attention" in names) == (config is STEREO)
    assert names <= set(OPS)


def reference(model, audio, prompts):
    """Plain PyTorch, whatever is patched."""
    run = OpSpec._run
    try:
        OpSpec._run = lambda self, args: self.reference(*args)
        with torch.inference_mode(), use_reference():
            return model.separate(audio, prompts)
    finally:
        OpSpec._run = run


def test_gradient_of_a_prompt_through_frozen_weights(launched):
    """Prompt tuning: through the kernels' backward passes, layer by layer."""
    model = tiny_model(TUSS).eval().requires_grad_(False)
    audio = torch.randn(1, 260)
    gradients = []
    for patched in (True, False):
        prompts = model.prompt_vectors(("speech", "sfx")).detach().clone().requires_grad_()
        if patched:
            model.separate(audio, prompts).square().mean().backward()
        else:
            run = OpSpec._run
            OpSpec._run = lambda self, args: self.reference(*args)
            model.separate(audio, prompts).square().mean().backward()
            OpSpec._run = run
        gradients.append(prompts.grad)
    assert_close(gradients[0], gradients[1], GRADIENT)
    assert {"locoformer_ffn", "locoformer_attention"} <= set(launched)


def test_training_of_the_causal_model(launched, monkeypatch):
    """Gradients of all parameters through all kernels of its ops."""
    model, audio, found = tiny_model(CAUSAL).train(), torch.randn(1, 260), []
    for patched in (True, False):
        if not patched:
            monkeypatch.setattr(OpSpec, "_run", lambda self, args: self.reference(*args))
        model.zero_grad()
        model.separate(audio, model.prompt_vectors(("speech", "sfx"))).square().mean().backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    kernels, plain = found
    assert kernels.keys() == plain.keys() and len(plain) > 20
    for name, gradient in plain.items():
        assert_close(kernels[name], gradient, GRADIENT)
    assert {"gated_recurrence", "conv_ffn", "band_attention", "band_tokens", "band_masks"} <= set(launched)
