"""What the contract does not say about band_attention: definition, bfloat16, training on the CPU, bad arguments."""

import pytest
import torch

from ussfast.ops import _op, band_attention, use_reference
from ussfast.ops.band_attention import SPEC, reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

NAMES = ("x", "norm", "qkv", "out")
# Distance from the reference over its norm. In bfloat16 the kernels round gradients of activations; the reference
# rounds the gradients of weights.
TOL = {"float32": 1e-5, "bfloat16": 2e-2}
HAS_KERNELS = hasattr(torch.ops.ussfast, "_band_attention_backward") and _op.IMPL == "native"
# Kernels against the reference: FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
needs_kernels = pytest.mark.skipif(not HAS_KERNELS, reason="the C++ extension is not loaded")


def draw(shape=(2, 9, 7, 12), dtype=torch.float32):
    channels = shape[3]
    tensors = (
        torch.randn(shape),
        torch.rand(channels) + 0.5,
        torch.randn(3 * channels, channels) * 2 * channels**-0.5,  # so that weights are far from equal
        torch.randn(channels, channels) * channels**-0.5,
    )
    return [t.to(dtype) for t in tensors]


def gradients(function, tensors, heads=2, precision="float32"):
    """The result and the gradients of all tensors, for one fixed gradient of the result."""
    leaves = [t.detach().requires_grad_() for t in tensors]
    out = function(*leaves, heads, 1e-5, precision)
    weight = torch.sin(torch.arange(out.numel(), dtype=out.dtype)).view(out.shape)
    return out.detach(), torch.autograd.grad(out, leaves, weight)


def distance(actual, expected):
    return ((actual - expected).norm() / expected.norm()).item()


def test_is_what_it_says():
    x, norm, qkv, out = draw()
    rows = x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * norm
    q, k, v = (rows @ qkv.t()).chunk(3, -1)
    mixed = torch.empty_like(x)
    for head in (slice(0, 6), slice(6, 12)):
        scores = q[..., head] @ k[..., head].transpose(2, 3) / 6**0.5
        weights = torch.exp(scores) / torch.exp(scores).sum(-1, keepdim=True)
        mixed[..., head] = weights @ v[..., head]
    actual = band_attention(x, norm, qkv, out, heads=2)
    torch.testing.assert_close(actual, x + mixed @ out.t(), rtol=1e-5, atol=1e-5)


def test_large_scores_do_not_overflow():
    x, norm, qkv, out = draw()
    tensors = x, norm, qkv * 10, out  # scores of some hundreds, whose last digits float32 does not have
    actual, found = gradients(SPEC, tensors)
    expected, wanted = gradients(reference, [t.double() for t in tensors])
    assert distance(actual, expected.float()) < 1e-4
    assert all(distance(a, b.float()) < 1e-3 for a, b in zip(found, wanted, strict=True))


def test_bfloat16_rounds_as_the_reference():
    tensors = draw((2, 20, 24, 64))
    with torch.no_grad():
        actual, expected = (f(*tensors, 2, 1e-5, "bfloat16") for f in (SPEC, reference))
        exact = reference(*tensors, 2, 1e-5, "float32")
    assert distance(actual, expected) < 1e-3 < distance(expected, exact)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    "shape, heads",
    [
        ((2, 9, 7, 12), 2),
        ((1, 3, 3, 5), 1),  # tails of everything, odd rows
        ((1, 2, 1, 4), 4),
        ((1, 3, 5, 40), 1),  # a head of more than a panel
        ((3, 45, 24, 64), 2),  # several blocks in a chunk, a last block of fewer frames
        ((1, 2, 200, 8), 2),  # a frame larger than a block
        ((1, 4, 32, 32), 4),  # as many bands as a panel has columns
    ],
)
def test_derivatives_of_every_argument(shape, heads, precision):
    tensors = draw(shape)
    actual, found = gradients(SPEC, tensors, heads, precision)
    expected, wanted = gradients(reference, tensors, heads, precision)
    assert distance(actual, expected) < TOL[precision]
    for name, a, b in zip(NAMES, found, wanted, strict=True):
        assert distance(a, b) < TOL[precision], f"{name}: {distance(a, b):.2g}"


def test_the_reference_can_be_derived():
    tensors = [t.requires_grad_() for t in draw((1, 3, 2, 4), torch.float64)]
    assert torch.autograd.gradcheck(lambda *t: reference(*t, 2, 1e-5, "float32"), tensors)


def test_strides_change_nothing():
    x, *rest = draw()
    strided = torch.stack((x, x), 2)[:, :, 0].transpose(1, 2).contiguous().transpose(1, 2)
    expected, actual = gradients(SPEC, (x, *rest)), gradients(SPEC, (strided, *rest))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_threads_do_not_change_a_bit(precision):
    tensors, before, found = draw((3, 60, 24, 64)), torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(gradients(SPEC, tensors, precision=precision))
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)


@needs_kernels
def test_kernels_train_where_they_can():
    tensors = draw()
    tensors[2].requires_grad_()
    settings = 2, 1e-5, "float32"
    assert type(SPEC(*tensors, *settings).grad_fn).__name__ == "_TrainedBackward"
    with use_reference():
        assert type(SPEC(*tensors, *settings).grad_fn).__name__ != "_TrainedBackward"
    assert type(SPEC(*[t.double() for t in tensors], *settings).grad_fn).__name__ != "_TrainedBackward"
    SPEC(*tensors, *settings).sum().backward()
    assert tensors[2].grad is not None and all(t.grad is None for t in tensors[:2])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"x": torch.zeros(2, 9, 7)}, "needs x"),
        ({"x": torch.zeros(2, 9, 7, 11)}, "needs x"),
        ({"qkv": torch.zeros(24, 12)}, "needs x"),
        ({"out": torch.zeros(12, 9)}, "needs x"),
        ({"heads": 5}, "heads"),
        ({"heads": 0}, "heads"),
        ({"precision": "int8"}, "precision"),
    ],
)
def test_bad_arguments(change, message):
    arguments = dict(zip(NAMES, draw(), strict=True)) | {"heads": 2} | change
    with pytest.raises(ValueError, match=message):
        band_attention(**arguments)
