"""What the contract does not say about conv_ffn: its definition, bfloat16, training on the CPU, bad arguments."""

import pytest
import torch
import torch.nn.functional as F

from ussfast.ops import _op, conv_ffn, use_reference
from ussfast.ops.conv_ffn import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

NAMES = ("x", "past", "norm", "inner", "inner_bias", "outer", "outer_bias")
# Distance from the reference over its norm. In bfloat16 the kernels round what they keep and gradients of activations;
# the reference rounds the gradients of weights.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}
HAS_KERNELS = hasattr(torch.ops.ussfast, "_conv_ffn_forward") and _op.IMPL == "native"
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")


def draw(shape=(2, 9, 7, 12), hidden=10, past=True, dtype=torch.float32):
    batch, _, bands, channels = shape
    tensors = (
        torch.randn(shape),
        torch.randn(batch, 2, bands, channels) if past else None,
        torch.rand(channels) + 0.5,
        torch.randn(2 * hidden, 3 * channels) * (3 * channels) ** -0.5,
        torch.randn(2 * hidden) * 0.1,
        torch.randn(channels, hidden) * hidden**-0.5,
        torch.randn(channels) * 0.1,
    )
    return [None if t is None else t.to(dtype) for t in tensors]


def gradients(function, tensors, *settings):
    """The result and the gradients of all tensors, for one fixed gradient of the result."""
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    out = function(*leaves, *settings)
    weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    wanted = [t for t in leaves if t is not None]
    found = iter(torch.autograd.grad(out, wanted, weight))
    return out.detach(), [None if t is None else next(found) for t in leaves]


def distance(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("axis", [1, 2])
def test_is_what_it_says(axis):
    x, past, norm, inner, inner_bias, outer, outer_bias = draw(past=axis == 1)
    rows = torch.cat((past, x), 1) if axis == 1 else F.pad(x, (0, 0, 1, 1))
    y = rows / (rows.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm
    expected = torch.empty_like(x)
    for i in range(x.shape[axis]):
        window = y.narrow(axis, i, 3).movedim(axis, -2).flatten(-2)
        value, gate = (window @ inner.t() + inner_bias).chunk(2, -1)
        step = (value * gate * torch.sigmoid(gate)) @ outer.t() + outer_bias
        expected.select(axis, i).copy_(x.select(axis, i) + step)
    actual = conv_ffn(x, past, norm, inner, inner_bias, outer, outer_bias, axis=axis)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axis", [1, 2])
def test_bfloat16_rounds_as_the_reference(axis):
    tensors = draw((2, 40, 24, 64), 96, past=axis == 1)
    with torch.no_grad():
        actual, expected = (f(*tensors, axis, 1e-5, "bfloat16") for f in (SPEC, reference))
        exact = reference(*tensors, axis, 1e-5, "float32")
    assert distance(actual, expected) < 1e-3 < distance(expected, exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape, hidden, axis, past",
    [
        ((2, 9, 7, 12), 10, 2, False),
        ((2, 9, 7, 12), 10, 1, True),
        ((2, 9, 7, 12), 10, 1, False),
        ((1, 3, 2, 5), 3, 2, False),  # tails of everything, odd rows
        ((1, 3, 2, 5), 3, 1, True),
        ((1, 1, 1, 4), 4, 1, True),
        ((3, 40, 24, 64), 96, 2, False),  # several blocks, several in a chunk
        ((1, 210, 5, 64), 96, 1, True),  # a sequence longer than a block
    ],
)
def test_derivatives_of_every_argument(shape, hidden, axis, past, precision):
    tensors = draw(shape, hidden, past)
    actual, found = gradients(SPEC, tensors, axis, 1e-5, precision)
    expected, wanted = gradients(reference, tensors, axis, 1e-5, precision)
    assert distance(actual, expected) < TOL[precision]
    for name, a, b in zip(NAMES, found, wanted, strict=True):
        assert (a is None) == (b is None)
        assert a is None or distance(a, b) < TOL[precision], f"{name}: {distance(a, b):.2g}"


@pytest.mark.parametrize("axis, past", [(1, True), (1, False), (2, False)])
def test_the_reference_can_be_derived(axis, past):
    tensors = [t if t is None else t.requires_grad_() for t in draw((1, 3, 2, 4), 3, past, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, axis, 1e-5, "float32"), tensors)


def strided(x):
    return torch.stack((x, x), 2)[:, :, 0].transpose(1, 2).contiguous().transpose(1, 2)


@pytest.mark.parametrize("axis", [1, 2])
def test_strides_change_nothing(axis):
    x, past, *weights = draw((2, 9, 7, 12), past=axis == 1)
    expected = gradients(SPEC, (x, past, *weights), axis, 1e-5, "float32")
    actual = gradients(SPEC, (strided(x), None if past is None else strided(past), *weights), axis, 1e-5, "float32")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("axis", [1, 2])
def test_threads_do_not_change_a_bit(axis, precision):
    tensors, before = draw((2, 60, 24, 64), 96, past=axis == 1), torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(SPEC, tensors, axis, 1e-5, precision))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@needs_kernels
def test_kernels_train_where_they_can():
    tensors = draw()
    tensors[3].requires_grad_()
    settings = 1, 1e-5, "float32"
    assert type(SPEC(*tensors, *settings).grad_fn).__name__ == "_TrainedBackward"
    with use_reference():
        assert type(SPEC(*tensors, *settings).grad_fn).__name__ != "_TrainedBackward"
    wide = [t.double() for t in tensors]
    assert type(SPEC(*wide, *settings).grad_fn).__name__ != "_TrainedBackward"
    out = SPEC(*tensors, *settings)
    out.sum().backward()
    assert tensors[3].grad is not None and all(t.grad is None for t in tensors[:3])


@needs_kernels
def test_second_derivatives_are_those_of_the_reference():
    tensors = draw((1, 3, 2, 4), 3)

    def second(function):
        x = tensors[0].detach().requires_grad_()
        (first,) = torch.autograd.grad(function(x, *tensors[1:], 1, 1e-5, "float32").sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(SPEC), second(reference), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"axis": 3}, "axis 1 or 2"),
        ({"x": torch.zeros(2, 9, 7)}, "needs x"),
        ({"x": torch.zeros(2, 9, 7, 11)}, "needs x"),
        ({"inner": torch.zeros(20, 12)}, "needs x"),
        ({"outer": torch.zeros(12, 9)}, "needs x"),
        ({"precision": "int8"}, "precision"),
        ({"axis": 2}, "past is for axis 1"),
        ({"past": torch.zeros(2, 1, 7, 12)}, "past is for axis 1"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(zip(NAMES, draw(), strict=True)) | {"axis": 1} | change
    with pytest.raises(ValueError, match=message):
        conv_ffn(**arguments)
