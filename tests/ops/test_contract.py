"""What every op promises, for every op: kernels equal the reference, registration and gradients are right."""

import importlib
import importlib.util

import pytest
import torch

import ussfast.ops  # noqa: F401  (registers the ops)
from ussfast.ops._op import OPS

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

# The only tolerance table for ops. Relative and absolute; inputs are of unit size.
TOL = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
HAS_TRITON = importlib.util.find_spec("triton") is not None
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def cases(device, *dtypes):
    torch.manual_seed(0)  # samples are drawn at collection time
    return [
        pytest.param(spec, args, TOL[dtype], id=f"{spec.name}-{str(dtype)[6:]}-{i}")
        for spec in OPS.values()
        for dtype in dtypes
        for i, args in enumerate(spec.samples(device, dtype))
    ]


def check(kernel, spec, args, tol):
    before = [a.clone() if torch.is_tensor(a) else a for a in args]
    expected, actual = spec.reference(*args), kernel(*args)
    torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)
    assert all(out.is_contiguous() for out in ([actual] if torch.is_tensor(actual) else actual))
    for a, b in zip(args, before, strict=True):
        assert not torch.is_tensor(a) or torch.equal(a, b), "the kernel changed an argument"


@pytest.mark.parametrize("spec, args, tol", cases(torch.device("cpu"), *TOL))
def test_dispatched_kernel(spec, args, tol):
    check(spec.overload, spec, args, tol)


@pytest.mark.gpu
# Launching through the dispatcher on the device itself; everywhere else the interpreter test below stands in.
@pytest.mark.skipif(DEVICE.type != "cuda", reason="no CUDA device")
@pytest.mark.parametrize("spec, args, tol", cases(DEVICE, *TOL) if DEVICE.type == "cuda" else [])
def test_dispatched_kernel_cuda(spec, args, tol):
    check(spec.overload, spec, args, tol)


def with_triton_kernel():
    found = cases(DEVICE, torch.float32, torch.float64, torch.bfloat16)
    return [p for p in found if importlib.util.find_spec(f"ussfast.ops._triton.{p.values[0].name}")]


# triton is an extra; `make test` installs it, so this runs in CI.
@pytest.mark.skipif(not HAS_TRITON, reason="triton is not installed")
@pytest.mark.parametrize("spec, args, tol", with_triton_kernel())
def test_triton_kernel(spec, args, tol):
    module = importlib.import_module(f"ussfast.ops._triton.{spec.name}")
    check(getattr(module, spec.name), spec, args, tol)


def with_first():
    seen: set[str] = set()
    for param in cases(torch.device("cpu"), torch.float64):
        spec, args, tol = param.values
        yield pytest.param(spec, args, tol, spec.name not in seen, id=param.id)
        seen.add(spec.name)


@pytest.mark.parametrize("spec, args, tol, first", list(with_first()))
def test_registration_and_gradient(spec, args, tol, first):
    def leaf(value):
        floating = torch.is_tensor(value) and value.is_floating_point()
        return value.detach().requires_grad_() if floating else value

    leaves = [leaf(value) for value in args]
    # Compiling takes seconds, and what it checks does not depend on the arguments: once per op is enough.
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    utils += ["test_aot_dispatch_dynamic"] if first else []
    torch.library.opcheck(spec.overload, leaves, test_utils=utils)
    torch.autograd.gradcheck(spec.overload, leaves, fast_mode=True)
    torch.autograd.gradgradcheck(spec.overload, leaves, fast_mode=True)
