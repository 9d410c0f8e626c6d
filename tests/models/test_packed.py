"""Weights that were prepared for inference: the same results, and never stale ones."""

import pytest
import torch
from tiny import TUSS, TUSS_SFC

from ussfast.engine.settings import pick_precision
from ussfast.errors import DeviceError, InputError
from ussfast.models import build
from ussfast.models._packed import PackedModule, prepare


def outputs(model, seed=0):
    torch.manual_seed(seed)
    audio = torch.randn(2, 3000)
    with torch.inference_mode():
        return model.separate(audio, model.prompt_vectors(("speech", "sfx")))


@pytest.mark.parametrize("config", [TUSS, TUSS_SFC])
def test_prepared_weights_give_the_same_bits(config):
    model = build(config).eval()
    before = outputs(model)
    prepare(model, "float32")
    parts = [m for m in model.modules() if isinstance(m, PackedModule)]
    assert len(parts) > 4 and all(m._prepared is not None for m in parts)
    assert torch.equal(outputs(model), before)
    assert not any("prepared" in key or "packed" in key for key in model.state_dict())


@pytest.mark.parametrize("change", ["train", "load", "convert"])
def test_changed_weights_are_never_mixed_with_prepared_ones(change):
    model, other = build(TUSS).eval(), build(TUSS).eval()
    prepare(model, "float32")
    if change == "train":
        model.train()
        with torch.no_grad():
            for parameter, value in zip(model.parameters(), other.parameters(), strict=True):
                parameter.copy_(value)
        model.eval()
    elif change == "load":
        model.load_state_dict(other.state_dict())
    else:
        model = model.double().float()
        other = model
    assert all(m._prepared is None for m in model.modules() if isinstance(m, PackedModule))
    assert torch.equal(outputs(model), outputs(other))


@pytest.mark.parametrize("config", [TUSS, TUSS_SFC])
@pytest.mark.parametrize("precision", ["int8", "bfloat16"])
def test_precision_reaches_every_layer_and_changes_the_result_a_little(config, precision):
    model = build(config).eval()
    exact = outputs(model)
    prepare(model, precision)
    assert {m.precision for m in model.modules() if isinstance(m, PackedModule)} == {precision}
    rounded = outputs(model)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).norm() < 0.2 * exact.norm()  # random weights amplify what rounding does
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, int8, got 'int4'"):
        prepare(model, "int4")


def test_int8_is_for_the_cpu():
    assert pick_precision("int8", torch.device("cpu")) == "int8"
    with pytest.raises(DeviceError, match="dtype int8 is for the CPU; on cuda use bf16"):
        pick_precision("int8", torch.device("cuda"))
