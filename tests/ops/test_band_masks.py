"""What the contract does not say about band_masks: its definition, bfloat16, training on the CPU, bad arguments."""

import pytest
import torch

from ussfast.ops import _op, band_masks, use_reference
from ussfast.ops.band_masks import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

NAMES = ("x", "features", "norm", "inner", "weigh", "outer", "bias")
# Distance from the reference over its norm. In bfloat16 the kernels round what they keep and gradients of activations;
# the reference rounds the gradients of weights.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}
HAS_KERNELS = hasattr(torch.ops.ussfast, "_band_masks_forward") and _op.IMPL == "native"
# Kernels against the reference: FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")
SMALL = (2, 3, 5), [2, 2, 3, 18], (12, 10, 5)  # batch, sources, frames; bands; dim, hidden, features


def draw(shape=SMALL[0], bands=SMALL[1], sizes=SMALL[2], dtype=torch.float32):
    (batch, sources, frames), (dim, hidden, features), bins = shape, sizes, sum(bands)
    tensors = (
        torch.randn(batch, sources, frames, len(bands), dim),
        torch.randn(batch, frames, bins, features),
        torch.rand(dim) + 0.5,
        torch.randn(len(bands), dim, 2 * hidden) * dim**-0.5,
        torch.randn(len(bands), hidden, 2 * features) * (hidden * features) ** -0.5,
        torch.randn(2 * bins * hidden) * hidden**-0.5,
        torch.randn(2 * bins),
    )
    return [t.to(dtype) for t in tensors]


def gradients(function, tensors, *settings):
    """The result and the gradients of all tensors, for one fixed gradient of the result."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = function(*leaves, *settings)
    weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    return out.detach(), list(torch.autograd.grad(out, leaves, weight))


def distance(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def test_is_what_it_says():
    bands = SMALL[1]
    x, features, norm, inner, weigh, outer, bias = draw()
    hidden = weigh.shape[1]
    y = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm
    expected, bin_at, outer_at = torch.empty(*x.shape[:3], sum(bands), 2), 0, 0
    for band, width in enumerate(bands):
        value, gate = (y[..., band, :] @ inner[band]).chunk(2, -1)
        h = value * gate * torch.sigmoid(gate)
        matrix = outer[outer_at : outer_at + 2 * hidden * width].view(hidden, width, 2)
        weights = (h @ weigh[band]).unflatten(-1, (2, -1))
        for i in range(width):
            bin_ = bin_at + i
            more = (weights * features[:, None, :, bin_, None]).sum(-1)
            expected[..., bin_, :] = h @ matrix[:, i] + bias[2 * bin_ : 2 * bin_ + 2] + more
        bin_at, outer_at = bin_at + width, outer_at + 2 * hidden * width
    actual = band_masks(x, features, norm, inner, weigh, outer, bias, bands=bands)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_as_the_reference():
    bands = [4, 8, 20]
    tensors = draw((2, 4, 60), bands, (64, 128, 12))
    with torch.no_grad():
        actual, expected = (f(*tensors, bands, 1e-5, "bfloat16") for f in (SPEC, reference))
        exact = reference(*tensors, bands, 1e-5, "float32")
    assert distance(actual, expected) < 1e-3 < distance(expected, exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape, bands, sizes",
    [
        SMALL,
        ((1, 1, 1), [1], (5, 3, 1)),  # tails of everything, one row
        ((1, 3, 3), [1, 7], (5, 3, 3)),  # odd rows
        ((2, 4, 101), [4, 4, 16, 33], (64, 128, 12)),  # several blocks, several in a part
        ((1, 210, 2), [3, 5], (8, 8, 4)),  # a frame longer than a block
        ((1, 2, 3), [40, 2], (36, 34, 19)),  # more of everything than a panel
    ],
)
def test_derivatives_of_every_argument(shape, bands, sizes, precision):
    tensors = draw(shape, bands, sizes)
    actual, found = gradients(SPEC, tensors, bands, 1e-5, precision)
    expected, wanted = gradients(reference, tensors, bands, 1e-5, precision)
    assert distance(actual, expected) < TOL[precision]
    for name, a, b in zip(NAMES, found, wanted, strict=True):
        assert distance(a, b) < TOL[precision], f"{name}: {distance(a, b):.2g}"


def test_the_reference_can_be_derived():
    bands = [1, 2, 2]
    tensors = [t.requires_grad_() for t in draw((1, 2, 2), bands, (4, 3, 2), torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, bands, 1e-5, "float32"), tensors)


@needs_kernels
def test_strides_change_nothing():
    tensors, bands = draw(), SMALL[1]
    expected = gradients(SPEC, tensors, bands, 1e-5, "float32")
    strided = [torch.stack((t, t), -1)[..., 0] for t in tensors]
    actual = gradients(SPEC, strided, bands, 1e-5, "float32")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_threads_do_not_change_a_bit(precision):
    bands, before = [4, 4, 16, 33], torch.get_num_threads()
    tensors, found = draw((2, 4, 101), bands, (64, 128, 12)), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(SPEC, tensors, bands, 1e-5, precision))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@needs_kernels
def test_kernels_train_where_they_can():
    tensors, settings = draw(), (SMALL[1], 1e-5, "float32")
    tensors[3].requires_grad_()
    assert type(SPEC(*tensors, *settings).grad_fn).__name__ == "_TrainedBackward"
    with use_reference():
        assert type(SPEC(*tensors, *settings).grad_fn).__name__ != "_TrainedBackward"
    wide = [t.double() for t in tensors]
    assert type(SPEC(*wide, *settings).grad_fn).__name__ != "_TrainedBackward"
    SPEC(*tensors, *settings).sum().backward()
    assert tensors[3].grad is not None and all(t.grad is None for t in tensors[:3])


@needs_kernels
def test_second_derivatives_are_those_of_the_reference():
    bands = [1, 2]
    tensors = draw((1, 2, 2), bands, (4, 3, 2))

    def second(function):
        x = tensors[0].detach().requires_grad_()
        out = function(x, *tensors[1:], bands, 1e-5, "float32")
        (first,) = torch.autograd.grad(out.sin().sum(), x, create_graph=True)
        return torch.autograd.grad(first.square().sum(), x)[0]

    torch.testing.assert_close(second(SPEC), second(reference), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 3, 5, 4)}, "needs x"),
        ({"x": torch.zeros(2, 3, 5, 3, 12)}, "needs x"),
        ({"features": torch.zeros(2, 5, 24, 5)}, "needs x"),
        ({"inner": torch.zeros(4, 12, 18)}, "needs x"),
        ({"weigh": torch.zeros(4, 10, 8)}, "needs x"),
        ({"outer": torch.zeros(499)}, "needs x"),
        ({"bands": [2, 2, 21]}, "needs x"),
        ({"bands": [0, 4, 3, 18]}, "at least one bin"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(zip(NAMES, draw(), strict=True)) | {"bands": SMALL[1]} | change
    with pytest.raises(ValueError, match=message):
        band_masks(**arguments)
