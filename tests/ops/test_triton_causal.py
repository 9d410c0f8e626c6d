"""Triton kernels of the causal model's ops in the interpreter: precisions and gradients, beyond the contract."""

import importlib
import importlib.util

import pytest
import torch

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._op import OPS

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the peak: products of float32 by parts, and sums of products of bfloat16 in another order.
TOL = {"float32": 1e-4, "bfloat16": 2e-2}
NAMES = ["band_tokens"]


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


@pytest.mark.parametrize("name, args", list(cases()))
def test_gradients(name, args):
    if args[0].numel():
        gradients_agree(name, args)
    else:
        assert passes(name)[1](torch.empty_like(args[0]), args, (True,) * len(args)) is None


@pytest.mark.parametrize("name", NAMES)
def test_bfloat16_products(name):
    args = list(OPS[name].samples(DEVICE, torch.float32))[1]
    args = (*args[:-1], "bfloat16")
    for actual, expected in zip(*(several(f(*args)) for f in (passes(name)[0], OPS[name].reference)), strict=True):
        agree(actual, expected, "bfloat16")


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


@pytest.mark.parametrize("blind", [0, 1])
def test_a_recurrence_without_one_of_its_gradients(blind):
    gradients_agree("gated_recurrence", some("gated_recurrence"), blind=(blind,))
