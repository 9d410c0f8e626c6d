"""bfloat16 on a GPU: which weights become narrow, and that residual streams do not. Here without a GPU."""

import pytest
import torch
from causal_models import audio, close
from tiny import CAUSAL, TUSS, TUSS_SFC, UNCONDITIONAL, tiny_model

from ussfast.models._packed import PackedModule, prepare
from ussfast.models.causal.layers import Block as CausalBlock
from ussfast.models.locoformer import Block

MODELS = {"tuss": TUSS, "sfc": TUSS_SFC, "unconditional": UNCONDITIONAL}


def parts_of(model):
    return {name: part for name, part in model.named_modules() if isinstance(part, PackedModule)}


@pytest.mark.parametrize("name", MODELS)
def test_only_matrices_become_narrow(name):
    expected = {"ConvSwiGlu": [3, 3], "Attention": [2, 2], "BandMerge": [3, 3, 1]}
    for part in parts_of(tiny_model(MODELS[name])).values():
        weights = part.op_weights()
        both = [(a, b) for a, b in zip(weights, part.narrowed(weights), strict=True) if a is not b]
        assert [a.dim() for a, _ in both] == expected.get(type(part).__name__, [])
        assert all(b.dtype == torch.bfloat16 and torch.equal(b, a.to(torch.bfloat16)) for a, b in both)
        if both and both[-1][0].dim() == 1:  # the flat one is that of the products, not its bias
            assert both[-1][0].numel() == weights[-1].numel() * both[1][0].shape[-1]


@pytest.mark.parametrize("name", MODELS)
def test_narrow_weights_are_those_that_ops_round_to(name):
    """Layers with narrow matrices give what those with float32 matrices give in bfloat16."""
    model, rows = tiny_model(MODELS[name]).eval(), audio(2, 3000)
    prompts = torch.randn(2, 8) if model.prompt_names else None
    with torch.inference_mode():
        exact = model.separate(rows, prompts)
        prepare(model, "bfloat16", pack=False)
        expected = model.separate(rows, prompts)
        for part_name, part in parts_of(model).items():
            if "coder" not in part_name and "ffn" in part_name:
                part._prepared = (*part.narrowed(part._prepared[:-1]), None)
        got = model.separate(rows, prompts)
    close(got, expected, 1e-5)
    close(got, exact, 3e-2)
    assert not torch.equal(got, exact)


@pytest.mark.parametrize("name", [*MODELS, "causal"])
def test_residual_streams_stay_float32_under_autocast(name):
    model, seen = tiny_model((MODELS | {"causal": CAUSAL})[name]).eval(), []
    for part in model.modules():
        if isinstance(part, Block | CausalBlock):
            part.register_forward_hook(lambda _, args, out: seen.extend((args[0], out)))
    prompts = torch.randn(2, 8) if model.prompt_names else None
    with torch.inference_mode():
        rows = audio(2, 3000)
        exact = model.separate(rows, prompts)
        seen.clear()
        close(model.separate(rows, prompts, autocast=True), exact, 5e-2)
    dtypes = {(x[0] if isinstance(x, tuple) else x).dtype for x in seen}
    assert dtypes == {torch.float32}
