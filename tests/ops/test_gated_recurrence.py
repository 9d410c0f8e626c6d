"""What the contract does not say about gated_recurrence: definition, bfloat16, training on the CPU, bad arguments."""

import pytest
import torch

from ussfast.ops import _op, gated_recurrence, use_reference
from ussfast.ops.gated_recurrence import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

NAMES = ("x", "state", "norm", "inner", "inner_bias", "outer")
# Distance from the reference over its norm. In bfloat16 the kernels round gradients of activations; the reference
# rounds the gradients of weights.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}
HAS_KERNELS = hasattr(torch.ops.ussfast, "_gated_recurrence_forward") and _op.IMPL == "native"
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")


def draw(shape=(2, 9, 7, 12), dtype=torch.float32):
    batch, _, bands, channels = shape
    tensors = (
        torch.randn(shape),
        torch.randn(batch, bands, channels),
        torch.rand(channels) + 0.5,
        torch.randn(3 * channels, channels) * channels**-0.5,
        torch.randn(3 * channels) * 0.1,
        torch.randn(channels, channels) * channels**-0.5,
    )
    return [t.to(dtype) for t in tensors]


def wave(out):
    return torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)


def gradients(function, tensors, precision="float32", used=(True, True)):
    """The results and the gradients of all tensors, for one fixed gradient of the results that are used."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    outs = function(*leaves, 1e-5, precision)
    wanted = [out for out, use in zip(outs, used, strict=True) if use]
    found = torch.autograd.grad(wanted, leaves, [wave(out) for out in wanted], materialize_grads=True)
    return [out.detach() for out in outs], found


def distance(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def test_is_what_it_says():
    x, state, norm, inner, inner_bias, outer = draw()
    rows = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm
    z, g, gate = (rows @ inner.t() + inner_bias).chunk(3, -1)
    expected, h = torch.empty_like(x), state
    for t in range(x.shape[1]):
        z_now = 1 / (1 + torch.exp(-z[:, t]))
        h = (1 - z_now) * h + z_now * torch.tanh(g[:, t])
        expected[:, t] = x[:, t] + (h * gate[:, t] * torch.sigmoid(gate[:, t])) @ outer.t()
    actual, last = gated_recurrence(x, state, norm, inner, inner_bias, outer)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last, h, rtol=1e-5, atol=1e-5)


def test_a_sequence_in_pieces_is_the_same():
    x, state, *weights = draw((2, 50, 9, 12))
    expected, last = gated_recurrence(x, state, *weights)
    pieces = []
    for piece in x.split(20, 1):
        y, state = gated_recurrence(piece, state, *weights)
        pieces.append(y)
    torch.testing.assert_close(torch.cat(pieces, 1), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(state, last, rtol=1e-6, atol=1e-6)


def test_bfloat16_rounds_as_the_reference():
    tensors = draw((2, 40, 24, 64))
    with torch.no_grad():
        actual, expected = (f(*tensors, 1e-5, "bfloat16") for f in (SPEC, reference))
        exact = reference(*tensors, 1e-5, "float32")
    for a, b, c in zip(actual, expected, exact, strict=True):
        assert distance(a, b) < 1e-3 < distance(b, c)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize(
    "shape",
    [
        (2, 9, 7, 12),
        (1, 3, 1, 5),  # tails of everything, odd rows
        (1, 1, 1, 4),
        (3, 50, 24, 64),  # several blocks, several in a chunk, several patches
        (8, 2, 20, 6),  # more blocks than chunks
    ],
)
def test_derivatives_of_every_argument(shape, used, precision):
    tensors = draw(shape)
    actual, found = gradients(SPEC, tensors, precision, used)
    expected, wanted = gradients(reference, tensors, precision, used)
    for name, a, b in zip(("y", "last", *NAMES), (*actual, *found), (*expected, *wanted), strict=True):
        if b.any():
            assert distance(a, b) < TOL[precision], f"{name}: {distance(a, b):.2g}"
        else:
            assert not a.any(), name


def test_the_reference_can_be_derived():
    tensors = [t.requires_grad_() for t in draw((1, 3, 2, 4), torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, 1e-5, "float32"), tensors)


def test_strides_change_nothing():
    x, *rest = draw()
    strided = torch.stack((x, x), 2)[:, :, 0].transpose(1, 2).contiguous().transpose(1, 2)
    expected, actual = gradients(SPEC, (x, *rest)), gradients(SPEC, (strided, *rest))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_threads_do_not_change_a_bit(precision):
    tensors, before, found = draw((8, 60, 24, 64)), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(SPEC, tensors, precision))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@needs_kernels
def test_kernels_train_where_they_can():
    tensors = draw()
    tensors[3].requires_grad_()
    settings = 1e-5, "float32"
    assert type(SPEC(*tensors, *settings)[0].grad_fn).__name__ == "_TrainedBackward"
    with use_reference():
        assert type(SPEC(*tensors, *settings)[0].grad_fn).__name__ != "_TrainedBackward"
    assert type(SPEC(*[t.double() for t in tensors], *settings)[0].grad_fn).__name__ != "_TrainedBackward"
    SPEC(*tensors, *settings)[0].sum().backward()
    assert tensors[3].grad is not None and all(t.grad is None for t in tensors[:3])


@needs_kernels
@pytest.mark.parametrize("result", [0, 1])
def test_second_derivatives_are_those_of_the_reference(result):
    tensors = draw((1, 3, 2, 4))

    def second(function):
        x = tensors[0].detach().requires_grad_()
        out = function(x, *tensors[1:], 1e-5, "float32")[result]
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(SPEC), second(reference), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 9, 7)}, "needs x"),
        ({"x": torch.zeros(2, 0, 7, 12)}, "needs x"),
        ({"x": torch.zeros(2, 9, 7, 11)}, "needs x"),
        ({"state": torch.zeros(2, 7, 11)}, "needs x"),
        ({"inner": torch.zeros(24, 12)}, "needs x"),
        ({"outer": torch.zeros(12, 9)}, "needs x"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(zip(NAMES, draw(), strict=True)) | change
    with pytest.raises(ValueError, match=message):
        gated_recurrence(**arguments)
