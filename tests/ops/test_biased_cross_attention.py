"""What the contract does not say about biased_cross_attention: the formula, many keys and queries, packing, errors."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.ops import biased_cross_attention, use_reference
from ussfast.ops.biased_cross_attention import pack

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
TOL = {"rtol": 1e-5, "atol": 1e-5}
# Packing exists only in the kernels; FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
needs_kernel = pytest.mark.skipif(cpu_isa() is None, reason="the C++ kernels are not loaded")


def both(*args, **more):
    """The kernel's and the reference's answer; without gradients, which would mean the reference twice."""
    with torch.no_grad():
        native = biased_cross_attention(*args, **more)
        with use_reference():
            return native, biased_cross_attention(*args, **more)


def draw(batch, queries, keys, heads, width, shared=False):
    q = torch.randn(1 if shared else batch, queries, heads, width)
    return q, *(torch.randn(batch, keys, heads, width) for _ in range(2))


def plain(q, k, v, bias):
    """The definition, in float64."""
    q, k, v, bias = (t.double() for t in (q, k, v, bias))
    scores = torch.einsum("bqhc,bkhc->bhqk", q.expand(len(k), -1, -1, -1), k) / q.shape[-1] ** 0.5 + bias
    return torch.einsum("bhqk,bkhc->bqhc", scores.softmax(-1), v).flatten(2)


def distances(queries, keys):
    """A bias like that of spectral feature compression: it hides nothing, but reaches far below any score."""
    query, key = torch.arange(queries)[:, None] / queries, torch.arange(keys) / keys
    return -max(queries, keys) * (query - key).abs()


@pytest.mark.parametrize("queries, keys", [(33, 300), (64, 1025), (230, 200), (1025, 64)])
def test_a_bias_with_slopes(queries, keys):
    q, k, v = draw(2, queries, keys, 3, 16, shared=True)
    bias, slope = distances(queries, keys).expand(3, -1, -1), torch.tensor([1.0, 0.25, -0.01])
    expected = plain(q, k, v, bias * slope[:, None, None]).float()
    for actual in both(q, k, v, bias, slope=slope):
        torch.testing.assert_close(actual, expected, **TOL)


@pytest.mark.parametrize("queries, keys, width", [(1, 500, 16), (70, 97, 8), (129, 1, 33), (31, 193, 5)])
def test_no_bias(queries, keys, width):
    q, k, v = draw(2, queries, keys, 2, width)
    for actual in both(q, k, v):
        torch.testing.assert_close(actual, plain(q, k, v, torch.zeros(1)).float(), **TOL)


def test_hidden_keys():
    """Whole blocks of keys before the first visible one, a single visible key, and a slope of 0."""
    q, k, v = draw(2, 40, 400, 3, 16)
    bias = torch.randn(3, 40, 400)
    bias[:, :, :390] = float("-inf")
    bias[:, 7] = float("-inf")
    bias[:, 7, 123] = 0
    slope = torch.tensor([1.0, 0.0, 2.0])
    seen = torch.where(bias == float("-inf"), bias, bias.nan_to_num() * slope[:, None, None])
    for actual in both(q, k, v, bias, slope=slope):
        torch.testing.assert_close(actual, plain(q, k, v, seen).float(), **TOL)
        torch.testing.assert_close(actual[:, 7], v[:, 123].flatten(1), **TOL)


def test_the_lowest_number_hides_too():
    q, k, v = draw(1, 5, 30, 2, 4)
    low, hidden = torch.zeros(2, 5, 30), torch.zeros(2, 5, 30)
    low[:, :, ::2], hidden[:, :, ::2] = torch.finfo().min, float("-inf")
    slope = torch.tensor([2.0, 1.0])
    torch.testing.assert_close(both(q, k, v, low, slope=slope)[0], both(q, k, v, hidden, slope=slope)[0])


@settings(max_examples=30, deadline=None)
@given(
    batch=st.sampled_from([0, 1, 2, 17]),
    queries=st.integers(1, 70),
    keys=st.integers(1, 110),
    heads=st.integers(1, 3),
    width=st.integers(1, 35),
    biased=st.booleans(),
    shared=st.booleans(),
)
def test_any_shape(batch, queries, keys, heads, width, biased, shared):
    torch.manual_seed(queries * keys + width)
    q, k, v = draw(batch, queries, keys, heads, width, shared)
    more = {"bias": torch.randn(heads, queries, keys), "slope": torch.randn(heads)} if biased else {}
    native, reference = both(q, k, v, **more)
    torch.testing.assert_close(native, reference, **TOL)


@needs_kernel
def test_packed_is_the_same_bit_for_bit():
    q, k, v = draw(2, 50, 130, 2, 16)
    bias, slope = torch.randn(2, 50, 130), torch.rand(2)
    with torch.no_grad():
        for given_slope in (None, slope):
            fresh = biased_cross_attention(q, k, v, bias, slope=given_slope)
            packed = pack(bias, given_slope)
            assert torch.equal(biased_cross_attention(q, k, v, bias, slope=given_slope, packed=packed), fresh)
        with pytest.raises(RuntimeError, match="packed weights are for other settings"):
            biased_cross_attention(q, k, v, bias, packed=packed[:-1])


@needs_kernel
@pytest.mark.parametrize("batch", [1, 5, 33])
def test_threads_do_not_change_a_bit(batch):
    q, k, v = draw(batch, 64, 300, 4, 16, shared=True)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(both(q, k, v, distances(64, 300).expand(4, -1, -1))[0])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@needs_kernel
@pytest.mark.parametrize("queries, keys", [(64, 300), (300, 64)])
def test_an_item_does_not_depend_on_the_batch(queries, keys):
    """The kernel cuts small and large batches into other blocks."""
    q, k, v = draw(20, queries, keys, 3, 16)
    more = {"bias": distances(queries, keys).expand(3, -1, -1), "slope": torch.tensor([1.0, 0.1, 0.0])}
    native, reference = both(q, k, v, **more)
    torch.testing.assert_close(native, reference, **TOL)
    for part in (slice(0, 1), slice(7, 12)):
        assert torch.equal(both(q[part], k[part], v[part], **more)[0], native[part])


@needs_kernel
def test_small_numbers_are_small_again_after_a_call():
    """The kernel flushes tiny results to zero for itself only."""
    with torch.no_grad():
        biased_cross_attention(*draw(1, 4, 9, 1, 4))
    assert (torch.tensor(1e-38) * 0.01).item() > 0


def test_gradients_of_bias_and_slope():
    q, k, v = draw(2, 3, 5, 2, 4)
    bias, slope = torch.randn(2, 3, 5), torch.tensor([0.0, 2.0], requires_grad=True)
    bias[:, :, 2] = float("-inf")
    bias.requires_grad_()
    biased_cross_attention(q, k, v, bias, slope=slope).square().sum().backward()
    assert bias.grad.isfinite().all() and slope.grad.isfinite().all()
    assert (bias.grad[:, :, 2] == 0).all() and (bias.grad[1] != 0).any() and slope.grad[0] != 0


def test_errors():
    q, k, v = draw(2, 3, 5, 2, 4)
    bias = torch.zeros(2, 3, 5)
    for shapes in (
        (q[0], k, v, None),
        (q[:, :, :1], k, v, None),
        (q, k, v[:, :4], None),
        (torch.cat([q, q]), k, v, None),
        (q, k[:, :0], v[:, :0], None),
        (q, k, v, bias[:1]),
        (q, k, v, bias[..., :4]),
    ):
        with pytest.raises(InputError, match=r"needs q \[batch or 1"):
            biased_cross_attention(*shapes)
    with pytest.raises(InputError, match=r"slope \[3\]"):
        biased_cross_attention(q, k, v, bias, slope=torch.ones(3))
    for more in ({"slope": torch.ones(2)}, {"packed": torch.zeros(4, dtype=torch.uint8)}):
        with pytest.raises(InputError, match="no bias was given"):
            biased_cross_attention(q, k, v, **more)
