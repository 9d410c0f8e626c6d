"""What the contract does not say about band_tokens: its definition, bfloat16, training on the CPU, bad arguments."""

import pytest
import torch

from ussfast.ops import _op, band_tokens, use_reference
from ussfast.ops.band_tokens import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

NAMES = ("features", "weight")
# Distance from the reference over its norm. In bfloat16 the kernels round what they keep and gradients of activations;
# the reference rounds the gradients of weights.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}
HAS_KERNELS = hasattr(torch.ops.ussfast, "_band_tokens_backward") and _op.IMPL == "native"
# Kernels against the reference: FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")
SMALL = (2, 5), [2, 2, 3, 18], 5, 12  # batch, frames; bands; features, dim


def draw(shape=SMALL[0], bands=SMALL[1], count=SMALL[2], dim=SMALL[3], dtype=torch.float32):
    bins = sum(bands)
    tensors = torch.randn(*shape, bins, count), torch.randn(bins * count * dim) * (count * max(bands)) ** -0.5
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
    _, bands, count, dim = SMALL
    features, weight = draw()
    expected, at = torch.empty(*SMALL[0], len(bands), dim), 0
    for band, width in enumerate(bands):
        rows = features[:, :, at : at + width].reshape(*SMALL[0], width * count)
        expected[:, :, band] = rows @ weight[at * count * dim : (at + width) * count * dim].view(-1, dim)
        at += width
    torch.testing.assert_close(band_tokens(features, weight, bands=bands, dim=dim), expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_rounds_as_the_reference():
    bands = [4, 8, 20]
    tensors = draw((2, 60), bands, 12, 64)
    with torch.no_grad():
        actual, expected = (f(*tensors, bands, 64, "bfloat16") for f in (SPEC, reference))
        exact = reference(*tensors, bands, 64, "float32")
    assert distance(actual, expected) < 1e-5 < 1e-3 < distance(expected, exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape, bands, count, dim",
    [
        SMALL,
        ((1, 1), [1], 1, 3),  # tails of everything, one row
        ((1, 3), [1, 7], 3, 5),  # odd rows, odd depth
        ((2, 201), [4, 4, 16, 33], 12, 64),  # several blocks, several in a part
        ((1, 3), [40, 2], 3, 70),  # more of everything than a panel
    ],
)
def test_derivatives_of_every_argument(shape, bands, count, dim, precision):
    tensors = draw(shape, bands, count, dim)
    actual, found = gradients(SPEC, tensors, bands, dim, precision)
    expected, wanted = gradients(reference, tensors, bands, dim, precision)
    assert distance(actual, expected) < TOL[precision]
    for name, a, b in zip(NAMES, found, wanted, strict=True):
        assert distance(a, b) < TOL[precision], f"{name}: {distance(a, b):.2g}"


def test_the_reference_can_be_derived():
    bands = [1, 2, 2]
    tensors = [t.requires_grad_() for t in draw((1, 2), bands, 2, 3, torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, bands, 3, "float32"), tensors)


@needs_kernels
def test_strides_change_nothing():
    tensors, settings = draw(), (*SMALL[1::2], "float32")
    expected = gradients(SPEC, tensors, *settings)
    strided = [torch.stack((t, t), -1)[..., 0] for t in tensors]
    torch.testing.assert_close(gradients(SPEC, strided, *settings), expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_threads_do_not_change_a_bit(precision):
    bands, before = [4, 4, 16, 33], torch.get_num_threads()
    tensors, found = draw((2, 201), bands, 12, 64), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(SPEC, tensors, bands, 64, precision))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@needs_kernels
def test_kernels_train_where_they_can():
    tensors, settings = draw(), (*SMALL[1::2], "float32")
    tensors[1].requires_grad_()
    assert type(SPEC(*tensors, *settings).grad_fn).__name__ == "_TrainedBackward"
    with use_reference():
        assert type(SPEC(*tensors, *settings).grad_fn).__name__ != "_TrainedBackward"
    wide = [t.double() for t in tensors]
    assert type(SPEC(*wide, *settings).grad_fn).__name__ != "_TrainedBackward"
    SPEC(*tensors, *settings).sum().backward()
    assert tensors[1].grad is not None and tensors[0].grad is None


@pytest.mark.parametrize(
    "change, message",
    [
        ({"features": torch.zeros(2, 25, 5)}, "needs features"),
        ({"features": torch.zeros(2, 5, 24, 5)}, "needs features"),
        ({"weight": torch.zeros(1499)}, "needs features"),
        ({"dim": 11}, "needs features"),
        ({"bands": [2, 2, 22]}, "needs features"),
        ({"bands": [0, 4, 3, 18]}, "at least one bin"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(zip(NAMES, draw(), strict=True)) | {"bands": SMALL[1], "dim": SMALL[3]} | change
    with pytest.raises(ValueError, match=message):
        band_tokens(**arguments)
