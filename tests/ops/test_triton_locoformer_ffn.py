"""What the contract does not say about the Triton kernels of locoformer_ffn: tiles, precision, gradients."""

import gc
import importlib.util
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops.locoformer_ffn import reference

if importlib.util.find_spec("triton") is None:
    # triton is an extra; `make test` installs it, so this runs in CI.
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._triton import _layouts, _locoformer_ffn_backward, locoformer_ffn
from ussfast.ops._triton._call import tile
from ussfast.ops._triton._launch import recording

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Of the peak: products of float32 by parts, and sums of products of bfloat16 in another order.
TOL = {"float32": 1e-4, "bfloat16": 2e-2}
KERNEL, BACKWARD = locoformer_ffn.locoformer_ffn, locoformer_ffn.locoformer_ffn_backward
ONLY_X, ALL = (True,) + (False,) * 11, (True,) * 6 + (False,) * 6


def case(shape, hidden, taps, groups, axis, precision="float32", dtype=torch.float32):
    def draw(*size):
        return torch.randn(size, device=DEVICE, dtype=dtype)

    channels = shape[-1]
    return [
        draw(*shape),
        torch.rand(channels, device=DEVICE, dtype=dtype) + 0.5,
        draw(2 * hidden, channels, taps) * (channels * taps) ** -0.5,
        draw(2 * hidden) * 0.1,
        draw(hidden, channels, taps) * (hidden * taps) ** -0.5,
        draw(channels) * 0.1,
        None, axis, groups, 1e-5, 1, precision,
    ]  # fmt: skip


def use_tile(monkeypatch, chosen):
    for module in (locoformer_ffn, _locoformer_ffn_backward):
        monkeypatch.setattr(module, "tiles", lambda problem, arch: (chosen,))


def agree(actual, expected, precision="float32"):
    assert actual.shape == expected.shape and actual.dtype == expected.dtype and actual.is_contiguous()
    assert (actual - expected).abs().max() <= TOL[precision] * expected.abs().max()


def gradients_agree(args, need=ALL):
    leaves = [a.detach().requires_grad_() if torch.is_tensor(a) else a for a in args]
    expected = reference(*leaves)
    grad = torch.randn_like(expected)
    wanted = torch.autograd.grad(expected, leaves[:6], grad)
    found = BACKWARD(grad, args, need)
    assert [f is not None for f in found] == list(need)
    for actual, exact in zip(found, wanted, strict=False):
        if actual is not None:
            agree(actual, exact, args[-1])


@st.composite
def problems(draw):
    groups, width = draw(st.sampled_from([(1, 5), (2, 8), (3, 4), (4, 3), (5, 1)]))
    return case(
        (draw(st.integers(1, 2)), draw(st.integers(1, 7)), draw(st.integers(1, 7)), groups * width),
        draw(st.sampled_from([1, 7])),
        draw(st.integers(1, 5)),
        groups,
        draw(st.sampled_from([1, 2])),
        draw(st.sampled_from(["float32", "bfloat16"])),
    )


@settings(max_examples=5, deadline=None)
@given(problems())
def test_any_shape_and_its_gradients(args):
    agree(KERNEL(*args), reference(*args), args[-1])
    gradients_agree(args)


@pytest.mark.parametrize(
    "held, columns, axis, precision",
    [
        (8, 0, 1, "float32"), (16, 0, 2, "bfloat16"), (16, 1, 1, "float32"),
        (0, 0, 2, "float32"), (0, 1, 1, "bfloat16"), (0, 1, 2, "float32"),
    ],
)  # fmt: skip
def test_every_kind_of_tile(monkeypatch, held, columns, axis, precision):
    """Sequences of 15 rows in tiles of 14, which are cut, and of 4, several of which share one."""
    use_tile(monkeypatch, tile(BN=16, BH=64, BC=held, COLUMNS=columns))
    args = case((1, 13, 2, 16), 40, 3, 4, axis, precision)
    agree(KERNEL(*args), reference(*args), precision)
    gradients_agree(args)


# Other sizes than specimens have: only compiling tells whether a tile suits a chip, but any must be right.
@pytest.mark.parametrize("arch", [80, 90, 100, 120])
@pytest.mark.parametrize("channels, taps", [(16, 2), (64, 1), (128, 4)])
def test_candidates_are_right(monkeypatch, arch, channels, taps):
    for precision in ("float32", "bfloat16"):
        args = case((1, 5, 2, channels), 10, taps, 2, 1, precision=precision)
        problem, tried = locoformer_ffn.problem(tuple(args)), set()
        for chosen in locoformer_ffn.tiles(problem, arch):
            assert chosen not in tried and problem.weights.w2.shape[0] % chosen["BH"] == 0
            assert chosen["BN"] > problem.edge and chosen["BC"] % problem.constants["BW"] == 0
            tried.add(chosen)
            if arch == 90 and channels == 16:
                use_tile(monkeypatch, chosen)
                agree(KERNEL(*args), reference(*args), precision)
                monkeypatch.undo()


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_backward_candidates_are_right(monkeypatch, precision):
    args = case((1, 5, 2, 16), 10, 2, 2, 1, precision=precision)
    for chosen in _locoformer_ffn_backward.tiles(locoformer_ffn.problem(tuple(args)), 90):
        use_tile(monkeypatch, chosen)
        gradients_agree(args, ONLY_X)
        monkeypatch.undo()


def test_strides_are_not_copied_and_results_do_not_depend_on_them():
    args = case((2, 3, 2, 16), 8, 2, 4, 1)
    wide = torch.randn(2, 2, 3, 32, device=DEVICE)
    args[0] = wide.transpose(1, 2)[..., 3:19]
    grad = wide.flip(0).transpose(1, 2)[..., :16]
    with recording(90) as calls:
        KERNEL(*args)
        BACKWARD(grad, args, ONLY_X)
    assert [call.arguments["x"].data_ptr() for call in calls] == [args[0].data_ptr()] * 2
    assert calls[1].arguments["grad"].data_ptr() == grad.data_ptr()
    agree(KERNEL(*args), reference(*args))
    for actual, exact in zip(BACKWARD(grad, args, ALL)[:6], BACKWARD(grad.contiguous(), args, ALL)[:6], strict=True):
        torch.testing.assert_close(actual, exact)
    gradients_agree(args)


def test_weights_of_another_type():
    args = case((1, 4, 5, 8), 8, 2, 2, 2, precision="bfloat16")
    narrow = [args[0], args[1], *(a.bfloat16() for a in args[2:6]), *args[6:]]
    agree(KERNEL(*narrow), reference(*narrow), "bfloat16")
    found = BACKWARD(torch.randn_like(args[0]), narrow, (True,) * 6)
    assert [f.dtype for f in found[:6]] == [a.dtype for a in narrow[:6]]


def test_silence_and_no_epsilon():
    args = case((1, 3, 4, 8), 8, 4, 2, 2)
    args[9] = 0.0
    agree(KERNEL(*args), reference(*args))  # the zeros around a sequence stay zeros
    args[0][0, 1], args[9] = 0.0, 1e-5
    agree(KERNEL(*args), reference(*args))
    assert BACKWARD(torch.ones_like(args[0]), args, ALL)[0].isfinite().all()


def test_not_a_number_stays_near():
    args = case((2, 12, 3, 8), 8, 4, 2, 1)
    args[0][1, 5, 2, 0] = float("nan")
    assert torch.equal(KERNEL(*args).isnan(), reference(*args).isnan())


@pytest.mark.parametrize(
    "change",
    [{10: 2}, {11: "int8"}, {0: torch.randn(1, 2, 6, 8, dtype=torch.float64)}, {0: torch.randn(0, 2, 6, 8)}],
    ids=["stride", "int8", "float64", "empty"],
)
def test_what_kernels_do_not_take_is_the_reference(change):
    args = case((1, 2, 6, 8), 8, 4, 2, 2)
    for index, value in change.items():
        args[index] = value
    assert torch.equal(KERNEL(*args), reference(*args))
    assert BACKWARD(torch.randn_like(args[0]), args, ALL) is None


def test_only_gradients_that_are_needed():
    args = case((1, 2, 6, 8), 8, 4, 2, 2)
    gradients_agree(args, (False, False, True) + (False,) * 9)
    gradients_agree(args, ONLY_X)


class TestLayouts:
    def test_made_once_until_a_weight_changes(self):
        args, made = case((1, 2, 6, 8), 8, 4, 2, 2), []
        first, second = (_layouts.laid_out(tuple(args[1:3]), lambda: made.append(0) or len(made)) for _ in range(2))
        assert first == second == 1
        with torch.no_grad():
            args[2].mul_(2)  # what an optimizer does
        agree(KERNEL(*args), reference(*args))
        assert _layouts.laid_out(tuple(args[1:3]), lambda: 2) == 2
        assert _layouts.laid_out(tuple(args[1:3]), lambda: 3, extra="other") == 3
        assert _layouts.laid_out((args[1], args[2].clone()), lambda: 4) == 4

    def test_results_follow_an_optimizer(self):
        args = case((1, 2, 6, 8), 8, 4, 2, 2)
        for index in range(1, 6):
            args[index].requires_grad_()
        optimizer = torch.optim.SGD(args[1:6], lr=0.5)
        for _ in range(2):
            reference(*args).square().mean().backward()
            with torch.no_grad():
                agree(KERNEL(*args), reference(*args))
            optimizer.step()
            with torch.no_grad():
                agree(KERNEL(*args), reference(*args))

    def test_data_replaced(self):
        weight = torch.ones(3)
        assert _layouts.laid_out((weight,), lambda: 1) == 1
        weight.data = torch.ones(3)
        assert _layouts.laid_out((weight,), lambda: 2) == 2

    def test_nothing_is_kept_alive(self):
        weight, value = torch.ones(3), torch.zeros(1)
        dead = weakref.ref(weight), weakref.ref(value)
        _layouts.laid_out((weight,), lambda kept=value: kept)
        del value
        assert dead[1]() is not None
        del weight
        gc.collect()
        assert dead[0]() is None and dead[1]() is None

    def test_inference_tensors_are_constant_until_forgotten(self):
        with torch.inference_mode():
            weight = torch.ones(3)
        assert _layouts.laid_out((weight,), lambda: 1) == _layouts.laid_out((weight,), lambda: 2) == 1
        _layouts.forget()
        assert _layouts.laid_out((weight,), lambda: 3) == 3


def test_specimens_compile_the_passes_that_models_run():
    found = list(locoformer_ffn.specimens())
    assert {launcher for _, launcher, _ in found} >= {KERNEL} and len(found) <= 12
    for _, launcher, arguments in found:
        with recording(90) as calls:
            launcher(*arguments)
        assert [call.matrix for call in calls] == [True]
