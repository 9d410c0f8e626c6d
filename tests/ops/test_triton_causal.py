"""Triton kernels of the causal model's ops in the interpreter: precisions and gradients, beyond the contract."""

import importlib
import importlib.util
import inspect
import json
from pathlib import Path

import pytest
import torch

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._op import GRADIENTS, OPS
from ussfast.ops._triton._band_masks_parts import hidden
from ussfast.ops._triton._causal_inner_backward import inner_backward
from ussfast.ops._triton.band_tokens import BANDS

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the peak: products of float32 by parts, and sums of products of bfloat16 in another order.
TOL = {"float32": 1e-4, "bfloat16": 2e-2}
NAMES = ["gated_recurrence", "conv_ffn", "band_attention", "band_tokens", "band_masks"]


def passes(name):
    module = importlib.import_module(f"ussfast.ops._triton.{name}")
    return getattr(module, name), getattr(module, f"{name}_backward")


def several(value):
    return (value,) if torch.is_tensor(value) else value


def agree(actual, expected, precision):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype
    assert (actual - expected).abs().max() <= TOL[precision] * expected.abs().max().clamp(min=1e-6)


def gradients_agree(name, args, need=None, blind=()):
    """blind: results that have no gradient."""
    precision = args[-1]
    need = [torch.is_tensor(a) for a in args] if need is None else need
    leaves = [a.detach().clone().requires_grad_() if torch.is_tensor(a) else a for a in args]
    outs = several(OPS[name].reference(*leaves))
    grads = [None if i in blind else torch.randn_like(out) for i, out in enumerate(outs)]
    known = [i for i, grad in enumerate(grads) if grad is not None]
    tensors = [a for a in leaves if torch.is_tensor(a)]
    of = [outs[i] for i in known], tensors, [grads[i] for i in known]
    exact = iter(torch.autograd.grad(*of, materialize_grads=True))
    found = passes(name)[1](grads if len(grads) > 1 else grads[0], args, tuple(need))
    assert [f is not None for f in found] == list(need)
    for leaf, actual in zip(leaves, found, strict=True):
        if torch.is_tensor(leaf):
            expected = next(exact)
            if actual is not None:
                agree(actual, expected, precision)


def cases():
    for name in NAMES:
        torch.manual_seed(0)
        for i, args in enumerate(OPS[name].samples(DEVICE, torch.float32)):
            precision = ("float32", "bfloat16")[i % 2]
            yield pytest.param(name, (*args[:-1], precision), id=f"{name}-{i}-{precision}")


def agrees(name, args):
    """Results, and gradients where there is something to have one."""
    for actual, expected in zip(*(several(f(*args)) for f in (passes(name)[0], OPS[name].reference)), strict=True):
        agree(actual, expected, args[-1])
    gradients_agree(name, args)


@pytest.mark.parametrize("name, args", list(cases()))
def test_results_and_gradients(name, args):
    if args[0].numel():
        agrees(name, args)
    else:
        assert passes(name)[1](torch.empty_like(args[0]), args, (True,) * len(args)) is None


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_other_candidates(name, precision, monkeypatch):
    """Tiles that are not the default, which measuring may choose."""
    ran = set()

    def launch(call, device):
        ran.add(len(call.tiles))
        call.run(call.tiles[-1])

    for module in {inspect.getmodule(f) for f in (*passes(name), inner_backward, hidden)}:
        monkeypatch.setattr(module, "launch", launch)
    args = max(OPS[name].samples(DEVICE, torch.float32), key=lambda args: args[0].shape[:-1].numel())
    agrees(name, (*args[:-1], precision))
    assert max(ran) > 1 or (name, precision) == ("gated_recurrence", "float32")


@pytest.mark.parametrize("name", NAMES)
def test_narrow_tensors(name):
    """bfloat16 throughout: gradients have the types of what they belong to."""
    args = list(OPS[name].samples(DEVICE, torch.bfloat16))[0]
    exact = [a.float() if torch.is_tensor(a) else a for a in args]
    grads = [torch.randn_like(out) for out in several(OPS[name].reference(*args))]
    leaves = [a.requires_grad_() if torch.is_tensor(a) else a for a in exact]
    outs = several(OPS[name].reference(*leaves))
    expected = iter(torch.autograd.grad(outs, [a for a in leaves if torch.is_tensor(a)], [g.float() for g in grads]))
    need = tuple(torch.is_tensor(a) for a in args)
    for a, found in zip(args, passes(name)[1](grads if len(grads) > 1 else grads[0], args, need), strict=True):
        if torch.is_tensor(a):
            assert found.dtype == torch.bfloat16
            agree(found.float(), next(expected), "bfloat16")


def some(name):
    return list(OPS[name].samples(DEVICE, torch.float32))[0]


@pytest.mark.parametrize("name", NAMES)
def test_only_gradients_that_are_needed(name):
    args = some(name)
    tensors = [i for i, a in enumerate(args) if torch.is_tensor(a)]
    for only in tensors[:1], tensors[-1:]:
        gradients_agree(name, args, [i in only for i in range(len(args))])


@pytest.mark.parametrize("name", NAMES)
def test_the_same_every_time(name):
    args = some(name)
    outs = several(OPS[name].reference(*args))
    grads = [torch.randn_like(out) for out in outs]
    runs = [passes(name)[1](grads if len(grads) > 1 else grads[0], args, (True,) * len(args)) for _ in range(2)]
    for one, other in zip(*runs, strict=True):
        assert one is other is None or torch.equal(one, other)


@pytest.mark.parametrize("name", NAMES)
def test_float64_is_left_to_the_reference(name):
    args = list(OPS[name].samples(DEVICE, torch.float64))[0]
    grads = [torch.randn_like(out) for out in several(OPS[name].reference(*args))]
    need = tuple(torch.is_tensor(a) for a in args)
    assert passes(name)[1](grads if len(grads) > 1 else grads[0], args, need) is None


@pytest.mark.parametrize("name, place", [("band_tokens", 0), ("band_masks", 1)])
def test_narrow_features(name, place):
    """What autocast makes of the convolution before these ops, beside weights and tokens in float32."""
    args = [a.bfloat16() if i == place else a for i, a in enumerate(some(name))]
    agrees(name, (*args[:-1], "bfloat16"))


@pytest.mark.parametrize("blind", [0, 1])
def test_a_recurrence_without_one_of_its_gradients(blind):
    gradients_agree("gated_recurrence", some("gated_recurrence"), blind=(blind,))


def test_the_op_passes_gradients_of_all_results_on(monkeypatch):
    """A stand-in for the device: the backward pass that a GPU's kernels would be asked for."""
    args = [a.detach().clone().requires_grad_() if torch.is_tensor(a) else a for a in some("gated_recurrence")]
    asked = []
    backward = lambda *given: asked.append(given) or passes("gated_recurrence")[1](*given)  # noqa: E731
    monkeypatch.setitem(GRADIENTS, "gated_recurrence", backward)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    y, last = OPS["gated_recurrence"].overload(*args)
    (y.sum() + 2 * last.sum()).backward()
    found = [a.grad.clone() for a in args[:6]]
    assert len(asked) == 1
    monkeypatch.undo()
    y, last = OPS["gated_recurrence"].reference(*args)
    for actual, expected in zip(found, torch.autograd.grad(y.sum() + 2 * last.sum(), args[:6]), strict=True):
        agree(actual, expected, "float32")


def test_specimens_have_the_model_s_sizes():
    config = json.loads((Path(__file__).parents[2] / "ussfast/weights/default/config.json").read_text())["config"]
    assert config["bands"] == BANDS
    for name in NAMES:
        found = list(importlib.import_module(f"ussfast.ops._triton.{name}").specimens())
        assert {launcher for _, launcher, _ in found} == set(passes(name))
