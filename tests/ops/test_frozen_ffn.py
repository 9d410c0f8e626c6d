"""The gradient of the input alone, weights staying as they are: locoformer_ffn and rms_group_norm on the CPU.

Truth is the reference derived in float64, which the contract checks against differences (`gradcheck`).
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops import _op, locoformer_ffn, rms_group_norm, use_reference
from ussfast.ops._op import OPS, TRAINING

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
HAS_KERNELS = hasattr(torch.ops.ussfast, "_locoformer_ffn_gradient") and _op.IMPL == "native"
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")

FFN, NORM = OPS["locoformer_ffn"], OPS["rms_group_norm"]
# Distance over the norm of what comes through the layer. In bfloat16 the kernel rounds the result's gradient and those
# of hidden units, each to within 2^-8 of every value (0.0016 root mean square, so 0.0023 together); what single values
# are off is as good as independent, so sums are off by no larger a share. In float32 it is 2^-24 and a hundred terms.
TOL = {"float32": 2e-6, "bfloat16": 2 * 2**-8}


def ffn_arguments(shape, hidden, kernel, axis, groups, stride=1, eps=1e-5, precision="float32", x=None):
    channels = shape[-1]
    return (
        torch.randn(shape) if x is None else x,
        torch.rand(channels) + 0.5,
        torch.randn(2 * hidden, channels, kernel) * (channels * kernel) ** -0.5,
        torch.randn(2 * hidden) * 0.1,
        torch.randn(hidden, channels, kernel) * (hidden * kernel) ** -0.5,
        torch.randn(channels) * 0.1,
        None, axis, groups, eps, stride, precision,
    )  # fmt: skip


def fixed_gradient(out):
    """The same for every precision; neither all ones nor small."""
    return torch.cos(torch.arange(out.numel(), dtype=torch.float64)).view(out.shape).to(out.dtype)


def derived(function, args):
    """The gradient of the first argument, for a fixed gradient of the result."""
    x = args[0].detach().requires_grad_()
    out = function(x, *args[1:])
    return torch.autograd.grad(out, x, fixed_gradient(out))[0]


def exactly(spec, args):
    return derived(spec.reference, [a.double() if torch.is_tensor(a) else a for a in args])


@pytest.fixture
def straight(monkeypatch):
    """Rounding in the reference lets gradients pass as they are: those of its own casts are rounded too, elsewhere than
    a kernel would."""

    def rounded(x):
        return x + (x.to(torch.bfloat16).to(x.dtype) - x).detach()

    monkeypatch.setitem(FFN.reference.__globals__, "round_bfloat16", rounded)


def through(found, args):
    """What came through the layer: without the gradient that passes beside it."""
    return found.double() - fixed_gradient(args[0].double())


def check_ffn(args):
    x, precision = args[0], args[-1]
    found, expected = derived(FFN, args), exactly(FFN, args)
    assert found.shape == x.shape and found.is_contiguous()
    error, size = (found - expected).norm(), through(expected, args).norm()
    assert error <= TOL[precision] * size, f"{error / size:.2g}"


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_samples(straight, precision):
    torch.manual_seed(0)
    for args in FFN.samples(torch.device("cpu"), torch.float32):
        assert TRAINING["locoformer_ffn"].takes(args)
        check_ffn((*args[:-1], precision))


# A sequence that is longer than a block, several in one block, tails of everything, strides up to the kernel.
SHAPES = [
    ((1, 531, 2, 40), 70, 4, 1, 4, 1),
    ((1, 3, 531, 16), 40, 8, 2, 4, 4),
    ((2, 300, 1, 24), 33, 1, 1, 3, 1),
    ((1, 11, 61, 64), 48, 4, 2, 4, 1),
    ((2, 261, 3, 15), 9, 5, 1, 5, 2),
    ((1, 129, 2, 15), 7, 3, 1, 1, 1),  # an odd number of values in a window, a block of one row more than another
    ((1, 5, 1, 66), 5, 9, 1, 1, 3),
]


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape, hidden, kernel, axis, groups, stride", SHAPES)
def test_of_a_long_sequence(straight, shape, hidden, kernel, axis, groups, stride, precision):
    torch.manual_seed(0)
    check_ffn(ffn_arguments(shape, hidden, kernel, axis, groups, stride, precision=precision))


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    batch=st.sampled_from([0, 1, 3]), frames=st.integers(1, 40), bands=st.integers(1, 5), groups=st.integers(1, 8),
    group=st.sampled_from([1, 2, 3, 7, 8, 13, 16, 32]), axis=st.sampled_from([1, 2]), strided=st.booleans(),
    hidden=st.integers(1, 40), kernel=st.integers(1, 9), stride=st.integers(1, 4),
    precision=st.sampled_from(sorted(TOL)),
)  # fmt: skip
def test_of_any_shape(batch, frames, bands, groups, group, axis, strided, hidden, kernel, stride, precision):
    channels = groups * group
    torch.manual_seed(frames * channels + bands)
    x = torch.randn(batch, frames, bands, channels)
    if strided:  # batch innermost, every other frame
        x = torch.randn(2 * frames, bands, channels, batch).permute(3, 0, 1, 2)[:, ::2]
    args = ffn_arguments(x.shape, hidden, kernel, axis, groups, min(stride, kernel), 1e-2, precision, x)
    found, expected = derived(FFN, args), exactly(FFN, args)
    # Norms of one channel let little of a gradient through and all of what rounding did to it. So with what passes
    # beside the layer, and wider; the other tests are the narrow ones.
    assert (found - expected).norm() <= (1e-5 if precision == "float32" else 5e-2) * expected.norm()


@needs_kernels
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2])
def test_threads_do_not_change_a_bit(axis, precision):
    args = ffn_arguments((2, 200, 61, 24), 48, 4, axis, 3, precision=precision)
    before, found = torch.get_num_threads(), []
    norm = torch.randn(7, 400, 24), torch.rand(24), 3, 1e-5
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append((derived(FFN, args), derived(NORM, norm)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


def by_kernel(out):
    return type(out.grad_fn).__name__ == "_TrainedBackward"


@needs_kernels
def test_kernels_are_for_weights_that_stay():
    args = list(ffn_arguments((1, 4, 3, 8), 6, 4, 1, 2))
    x = args[0].requires_grad_()
    assert by_kernel(FFN(*args)) and by_kernel(FFN(*args[:-1], "bfloat16"))
    assert not by_kernel(FFN(*args[:-1], "int8"))
    assert not by_kernel(FFN(*(a.double() if torch.is_tensor(a) else a for a in args)))
    with use_reference():
        assert not by_kernel(FFN(*args))
    for i in range(1, 6):
        args[i].requires_grad_()
        out = FFN(*args)
        assert not by_kernel(out)
        assert torch.autograd.grad(out.sum(), args[i])[0].any()
        args[i].requires_grad_(False)
    weight = torch.rand(8)
    assert by_kernel(NORM(x, weight, 2, 1e-5)) and not by_kernel(NORM(x.double(), weight, 2, 1e-5))
    assert not by_kernel(NORM(x.detach(), weight.requires_grad_(), 2, 1e-5))
    assert not by_kernel(NORM(x, weight, 2, 1e-5))


def test_int8_is_derived_as_the_reference():
    args = ffn_arguments((1, 6, 3, 8), 6, 4, 1, 2, precision="int8")
    assert torch.equal(derived(FFN, args), derived(FFN.reference, args))


@needs_kernels
def test_nothing_but_arguments_is_kept():
    args = ffn_arguments((1, 4, 3, 8), 6, 4, 1, 2)
    args[0].requires_grad_()
    for out in (FFN(*args), NORM(args[0], args[1], 2, 1e-5)):
        given_memory = {a.data_ptr() for a in args if torch.is_tensor(a)}
        assert {kept.data_ptr() for kept in out.grad_fn.saved_tensors} <= given_memory


@needs_kernels
@pytest.mark.parametrize("spec", [FFN, NORM], ids=["ffn", "norm"])
def test_second_derivatives_are_those_of_the_reference(spec):
    def second(function):
        torch.manual_seed(0)
        args = ffn_arguments((1, 4, 3, 8), 6, 4, 1, 2) if spec is FFN else (torch.randn(3, 8), torch.rand(8), 2, 1e-5)
        x = args[0].requires_grad_()
        (first,) = torch.autograd.grad(function(*args).sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(spec), second(spec.reference), rtol=1e-4, atol=1e-4)


@needs_kernels
@pytest.mark.parametrize("width", [8, 5], ids=["four-groups", "any-width"])
def test_silence_has_a_derivative(width):
    """That of x / (|x| + eps) at 0 is 1 / eps; the reference divides zero by zero there."""
    groups, eps = 4, 0.5
    x, weight = torch.randn(3, groups * width), torch.rand(groups * width)
    expected = exactly(NORM, (x, weight, groups, eps))
    x[1, :width] = 0
    found = derived(NORM, (x, weight, groups, eps)).double()
    expected[1, :width] = (fixed_gradient(x.double()) * weight / eps)[1, :width]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    quiet = ffn_arguments((1, 6, 3, groups * width), 6, 4, 1, groups, x=torch.zeros(1, 6, 3, groups * width))
    assert derived(FFN, quiet).isfinite().all()


@needs_kernels
def test_results_of_any_strides_are_derived():
    args = ffn_arguments((2, 9, 7, 12), 10, 4, 2, 3)
    x = args[0].requires_grad_()
    for function in (lambda: FFN(*args), lambda: NORM(x, args[1], 3, 1e-5)):
        (expected,) = torch.autograd.grad(function(), x, torch.ones(x.shape))
        (expanded,) = torch.autograd.grad(function(), x, torch.ones(()).expand(x.shape))
        assert torch.equal(expanded, expected)


def norm_terms(x, weight, groups, eps, grad):
    """The gradient by its formula in float64: two terms, of which the second is taken from the first."""
    x, wanted = (t.double().unflatten(-1, (groups, -1)) for t in (x, grad.double() * weight))
    rms = x.square().mean(-1, keepdim=True).sqrt()
    back = (wanted * x).mean(-1, keepdim=True) / ((rms + eps).square() * rms)
    return (wanted / (rms + eps)).flatten(-2), (x * back).flatten(-2)


def check_norm(args):
    x, weight, groups, eps = args
    found = derived(NORM, args)
    first, second = norm_terms(x, weight, groups, eps, fixed_gradient(x.double()))
    torch.testing.assert_close(first - second, exactly(NORM, args), rtol=1e-6, atol=1e-9)
    # Terms may all but cancel: errors are those of the terms.
    size = torch.maximum(first.abs(), second.abs()).unflatten(-1, (groups, -1)).norm(dim=-1, keepdim=True)
    error = (found - (first - second)).abs().unflatten(-1, (groups, -1))
    assert found.is_contiguous() and (error <= 1e-6 * size).all(), (error / size).max()


@needs_kernels
def test_samples_of_the_norm():
    torch.manual_seed(0)
    for args in NORM.samples(torch.device("cpu"), torch.float32):
        assert TRAINING["rms_group_norm"].takes(args)
        check_norm(args)


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(
    lead=st.lists(st.integers(0, 5), max_size=3), groups=st.integers(1, 9), strided=st.booleans(),
    width=st.sampled_from([1, 2, 7, 8, 15, 16, 17, 31, 32, 33, 100]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_norm_of_any_shape(lead, groups, width, strided, seed):
    torch.manual_seed(seed)
    x = torch.randn(*lead, groups * width)
    if strided and lead:
        x = torch.randn(*lead[1:], groups * width, 2 * lead[0]).movedim(-1, 0)[::2]
    check_norm((x, torch.randn(groups * width), groups, 1e-5))


@needs_kernels
def test_kernels_refuse_what_does_not_fit():
    x, norm, conv, conv_bias, deconv, *_ = ffn_arguments((1, 4, 3, 8), 6, 4, 1, 2)
    good = {
        "grad": x, "x": x, "norm": norm, "conv": conv, "conv_bias": conv_bias, "deconv": deconv,
        "axis": 1, "groups": 2, "eps": 1e-5, "stride": 1, "precision": "float32",
    }  # fmt: skip
    torch.ops.ussfast._locoformer_ffn_gradient(*good.values())
    bad = [
        {"grad": x[:, :2]}, {"grad": x[..., :4]}, {"x": x[0]}, {"norm": norm[:4]}, {"conv": conv[:5]},
        {"conv": conv[:, :4]}, {"conv_bias": conv_bias[:3]}, {"deconv": deconv[:3]}, {"deconv": deconv[0]},
        {"axis": 0}, {"axis": 3}, {"groups": 3}, {"groups": 0}, {"groups": -1}, {"stride": 0}, {"stride": 5},
        {"precision": "int8"}, {"precision": "half"}, {"x": x.to("meta")}, {"conv": conv.to("meta")},
    ]  # fmt: skip
    for wrong in bad:
        with pytest.raises((RuntimeError, IndexError)):
            torch.ops.ussfast._locoformer_ffn_gradient(*(good | wrong).values())
    bad = [(x[:, :2], x, norm, 2), (x, x, norm[:4], 2), (x, x, norm, 3), (x, x, norm, 0), (x, x, norm.to("meta"), 2)]
    for wrong in bad:
        with pytest.raises(RuntimeError):
            torch.ops.ussfast._rms_group_norm_gradient(*wrong, 1e-5)


@needs_kernels
def test_public_functions_use_them():
    x, norm, *weights = ffn_arguments((1, 4, 3, 8), 6, 4, 1, 2)[:6]
    x.requires_grad_()
    assert by_kernel(locoformer_ffn(x, norm, *weights, axis=1, groups=2)) and by_kernel(rms_group_norm(x, norm, 2))
