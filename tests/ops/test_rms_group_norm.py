"""What the contract does not say about rms_group_norm: any shape, bad arguments, forced instruction sets."""

import os
import re
import subprocess
import sys
import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast import _ext
from ussfast.ops import rms_group_norm, use_reference
from ussfast.ops.rms_group_norm import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")


def plain(x, weight, groups, eps):
    """The definition, one bin and one group at a time."""
    out, width = torch.empty(x.shape, dtype=torch.float64), x.shape[-1] // groups
    for bin_, target in zip(x.double().reshape(-1, x.shape[-1]), out.view(-1, x.shape[-1]), strict=True):
        for g in range(groups):
            part = slice(g * width, (g + 1) * width)
            rms = (sum(v * v for v in bin_[part].tolist()) / width) ** 0.5
            target[part] = bin_[part] / (rms + eps) * weight[part].double()
    return out


def test_reference_is_the_definition():
    x, weight = torch.randn(2, 3, 12) * 3, torch.rand(12)
    expected = plain(x, weight, 4, 0.1)
    torch.testing.assert_close(reference(x, weight, 4, 0.1).double(), expected, rtol=1e-6, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    lead=st.lists(st.integers(0, 5), max_size=3),
    groups=st.integers(1, 20),
    width=st.sampled_from([1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 64, 100]),
    dtype=st.sampled_from([torch.float32, torch.float64]),
    seed=st.integers(0, 2**16),
)
def test_any_shape(lead, groups, width, dtype, seed):
    torch.manual_seed(seed)
    x, weight = torch.randn(*lead, groups * width, dtype=dtype), torch.randn(groups * width, dtype=dtype)
    tol = 1e-12 if dtype == torch.float64 else 1e-5
    torch.testing.assert_close(
        rms_group_norm(x, weight, groups), reference(x, weight, groups, 1e-5), rtol=tol, atol=tol
    )


@settings(max_examples=40, deadline=None)
@given(
    order=st.permutations([0, 1, 2, 3]),
    step=st.integers(1, 3),
    start=st.integers(0, 2),
    groups=st.sampled_from([1, 4, 8]),
)
def test_any_strides(order, step, start, groups):
    x = torch.randn(8, 16, 24, 40).permute(order)[:, start::step]
    weight = torch.rand(2 * x.shape[-1])[::2]
    torch.testing.assert_close(rms_group_norm(x, weight, groups), reference(x, weight, groups, 1e-5))


def test_many_rows_on_several_threads():
    x, weight = torch.randn(3, 257, 131, 64).transpose(1, 2), torch.rand(64)
    many = rms_group_norm(x, weight, 8)
    torch.testing.assert_close(many, reference(x, weight, 8, 1e-5))
    torch.set_num_threads(1)
    try:
        assert torch.equal(rms_group_norm(x, weight, 8), many)  # bit for bit, whatever the threads
    finally:
        torch.set_num_threads(2)


def test_broadcast_batch_and_mixed_dtypes():
    x = torch.randn(1, 4, 32).expand(3, 4, 32)
    weight = torch.rand(32)
    torch.testing.assert_close(rms_group_norm(x, weight, 4), rms_group_norm(x.clone(), weight, 4))
    half = rms_group_norm(x.bfloat16(), torch.rand(32), 4)
    assert half.dtype == torch.bfloat16 and half.shape == x.shape


def test_silence_stays_silent_and_nan_stays_in_its_group():
    x = torch.zeros(2, 2, 32)
    assert torch.equal(rms_group_norm(x, torch.ones(32), 4), x)
    x[0, 1, 3] = float("nan")
    bad = rms_group_norm(x, torch.ones(32), 4).isnan()
    assert bad[0, 1, :8].all() and bad.sum() == 8


@pytest.mark.parametrize(
    "shape, channels, groups",
    [((2, 12), 12, 5), ((2, 12), 12, 0), ((2, 12), 11, 1), ((), 1, 1), ((3, 0), 0, 1)],
)
def test_bad_arguments_name_what_came_in(shape, channels, groups):
    given_values = f"x {list(shape)}, weight [{channels}], groups {groups}"
    with pytest.raises(ValueError, match=re.escape(given_values)):
        rms_group_norm(torch.ones(shape), torch.ones(channels), groups)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="floating-point.*int64"):
        rms_group_norm(torch.ones(2, 4, dtype=torch.int64), torch.ones(4), 2)


def test_reference_context_is_exact_and_only_for_its_thread():
    x, weight = torch.randn(64, 40), torch.rand(40)
    calls: list[str] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    with Spy(), torch.inference_mode():
        rms_group_norm(x, weight, 5)
        assert calls == ["ussfast.rms_group_norm.default"]
        with use_reference():
            calls.clear()
            inside = rms_group_norm(x, weight, 5)
            assert calls and not any("ussfast" in name for name in calls)
        calls.clear()
        rms_group_norm(x, weight, 5)
        assert calls == ["ussfast.rms_group_norm.default"]
    assert torch.equal(inside, reference(x, weight, 5, 1e-5))

    seen = []
    with use_reference():
        thread = threading.Thread(target=lambda: seen.append(rms_group_norm(x, weight, 5)))
        thread.start()
        thread.join()
    assert torch.equal(seen[0], SPEC.overload(x, weight, 5, 1e-5))


FORCED = """
import sys, torch
torch.set_num_threads(1)
from ussfast import _ext, ops
x, w = torch.randn(2, 3, 5, 96, generator=torch.Generator().manual_seed(1)), torch.linspace(0.5, 2, 96)
dtypes = torch.float32, torch.float64
out = [ops.rms_group_norm(x.to(t), w.to(t), g) for g in (1, 3, 4, 8, 12, 96) for t in dtypes]
torch.save((_ext.cpu_isa(), out), sys.argv[1])
"""


# Without a compiler there is no ISA to force; with one, FAIL_WITHOUT_EXT=1 makes a missing extension red.
@pytest.mark.skipif(_ext.cpu_isa() is None, reason="the C++ kernels are not loaded")
def test_every_instruction_set_agrees(tmp_path):
    results, refused = {}, {}
    for isa in ("generic", "avx2", "avx512"):
        path, environment = tmp_path / isa, os.environ | {"USSFAST_FORCE_ISA": isa}
        command = [sys.executable, "-c", FORCED, path]
        run = subprocess.run(command, env=environment, text=True, capture_output=True)
        if run.returncode:
            refused[isa] = run.stderr
        else:
            used, results[isa] = torch.load(path)
            assert used == isa
    assert "generic" in results
    for message in refused.values():
        assert "this CPU has only" in message
    for tensors in results.values():
        for actual, expected in zip(tensors, results["generic"], strict=True):
            tol = 1e-12 if actual.dtype == torch.float64 else 2e-6
            torch.testing.assert_close(actual, expected, rtol=tol, atol=tol)


def test_compiles_without_graph_break():
    def layer(x, weight):
        return rms_group_norm(x, weight, 4).sin()

    x, weight = torch.randn(4, 16), torch.rand(16)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, weight), layer(x, weight))


def triton_backward(x, weight, groups, eps, grad, need=(True, True)):
    # triton is an extra; `make test` installs it, so this runs in CI.
    pytest.importorskip("triton", reason="triton is not installed")
    from ussfast.ops._triton.rms_group_norm import rms_group_norm_backward

    return rms_group_norm_backward(grad, (x, weight, groups, eps), (*need, False, False))


def autograd(x, weight, groups, eps, grad):
    leaves = [t.detach().requires_grad_() for t in (x, weight)]
    return torch.autograd.grad(reference(*leaves, groups, eps), leaves, grad)


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 70),
    groups=st.integers(1, 5),
    width=st.integers(1, 20),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
def test_triton_backward(rows, groups, width, dtype):
    torch.manual_seed(rows * width)
    x = (torch.randn(groups * width, 2, rows) * 2).to(dtype).permute(2, 1, 0)  # channels outermost in memory
    weight, grad = torch.rand(groups * width, dtype=dtype) + 0.5, torch.randn(x.shape).to(dtype)
    tol = {torch.float64: 1e-11, torch.float32: 2e-5, torch.bfloat16: 1.6e-2}[dtype]
    found = triton_backward(x, weight, groups, 1e-2, grad)
    for actual, expected in zip(found[:2], autograd(x, weight, groups, 1e-2, grad), strict=True):
        assert actual.dtype == dtype
        torch.testing.assert_close(actual, expected, rtol=tol, atol=tol * max(1.0, float(expected.abs().max())))
    assert found[2:] == (None, None)


def test_triton_backward_over_many_blocks_and_only_what_is_needed(monkeypatch):
    module = pytest.importorskip("ussfast.ops._triton.rms_group_norm", reason="triton is not installed")
    monkeypatch.setattr(module, "_PROGRAMS", 3)
    x, weight, grad = torch.randn(300, 64), torch.rand(64), torch.randn(300, 64)
    expected = autograd(x, weight, 4, 1e-5, grad)
    for need in ((True, True), (True, False), (False, True)):
        found = triton_backward(x, weight, 4, 1e-5, grad, need)
        for actual, wanted, n in zip(found[:2], expected, need, strict=True):
            assert (actual is not None) == n
            if n:
                torch.testing.assert_close(actual, wanted, rtol=2e-5, atol=2e-4)


def test_triton_backward_of_silence_is_finite():
    """The derivative at zero is 1 / eps; the reference divides zero by zero there."""
    x, weight, grad = torch.zeros(3, 8), torch.rand(8), torch.randn(3, 8)
    x_grad, w_grad, *_ = triton_backward(x, weight, 2, 0.5, grad)
    torch.testing.assert_close(x_grad, grad * weight / 0.5)
    assert not w_grad.any()


def test_triton_backward_leaves_wide_rows_to_the_reference():
    x = torch.randn(2, 5000)
    assert triton_backward(x, x[0], 1, 1e-5, x) is None
