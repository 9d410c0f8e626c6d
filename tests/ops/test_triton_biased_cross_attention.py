"""Triton kernels of biased_cross_attention in the interpreter: many blocks, hidden keys, gradients."""

import importlib.util
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops.biased_cross_attention import reference

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._triton import _call, _cross_attention_backward
from ussfast.ops._triton import biased_cross_attention as module

# The interpreter also computes what tl.where then leaves out: 0 times infinity.
pytestmark = [pytest.mark.usefixtures("nan_filled_empty"), pytest.mark.filterwarnings("ignore:invalid value")]
TOL = {"rtol": 1e-5, "atol": 1e-5}
COARSE = {"rtol": 1.6e-2, "atol": 1.6e-2}
SMALL = _call.tile(ITEMS=2, BLOCK_Q=16, BLOCK_K=16)


def run_with(monkeypatch, chosen):
    """Lets every launch use the tile that `chosen` makes of its call, and counts them."""
    names = []

    def launch(call, device):
        names.append(call.name)
        call.run(chosen(call))

    monkeypatch.setattr(module, "launch", launch)
    monkeypatch.setattr(_cross_attention_backward, "launch", launch)
    monkeypatch.setattr(_cross_attention_backward, "_PROGRAMS", 1)  # long sums rather than many programs
    return names


def small(call):
    wanted = dict(call.tiles[0].blocks)
    return replace(SMALL, blocks=tuple((name, n) for name, n in SMALL.blocks if name in wanted))


@pytest.fixture
def small_tiles(monkeypatch):
    return run_with(monkeypatch, small)


def draw(batch, queries, keys, heads, width, shared=False, dtype=torch.float32):
    q = torch.randn(1 if shared else batch, queries, heads, width)
    return [t.to(dtype) for t in (q, *(torch.randn(batch, keys, heads, width) for _ in range(2)))]


def case(kind, batch=2, queries=18, keys=20, heads=1, width=5, shared=False, dtype=torch.float32, slope=True):
    q, k, v = draw(batch, queries, keys, heads, width, shared, dtype)
    bias = torch.randn(heads, queries, keys) if kind != "none" else None
    if kind == "hidden":  # whole blocks before the first key that is seen, a query with a single key
        bias[:, :, : keys - 3] = float("-inf")
        bias[:, 1] = float("-inf")
        bias[:, 1, 1] = 0.5
    factor = torch.tensor([0.7, 0.0, 1.3])[:heads] if slope and kind != "none" else None
    return q, k, v, bias, factor, None


def gradients(args, grad):
    """Of the reference, in the arguments' places, by autograd; of q, k, v, bias and slope where they are there."""
    leaves = [a.clone().requires_grad_() if torch.is_tensor(a) and a.is_floating_point() else a for a in args]
    wanted = [a for a in leaves if torch.is_tensor(a) and a.requires_grad]
    found = iter(torch.autograd.grad(reference(*leaves), wanted, grad))
    return [next(found) if torch.is_tensor(a) and a.requires_grad else None for a in leaves]


def check_gradients(args, tolerance=TOL):
    grad = torch.randn(args[1].shape[0], args[0].shape[1], args[0][0, 0].numel()).to(args[0].dtype)
    expected = gradients(args, grad)
    found = module.biased_cross_attention_backward(grad, args, tuple(e is not None for e in expected))
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if other is not None:
            scale = max(1.0, float(other.abs().max()))
            assert one.dtype == other.dtype
            torch.testing.assert_close(one, other, rtol=tolerance["rtol"], atol=tolerance["atol"] * scale)


KINDS = ["none", "bias", "hidden"]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_several_blocks_of_queries_keys_and_items(small_tiles, kind, shared):
    args = case(kind, batch=3 - shared, shared=shared)
    torch.testing.assert_close(module.biased_cross_attention(*args), reference(*args), **TOL)
    check_gradients(args)
    assert {name.removeprefix("_biased_cross_attention_") for name in small_tiles} >= {
        "fwd_kernel", "bwd_q_kernel", "bwd_kv_kernel"
    }  # fmt: skip


@settings(max_examples=5, deadline=None)
@given(
    batch=st.sampled_from([1, 3]),
    queries=st.integers(1, 20),
    keys=st.integers(4, 20),
    heads=st.integers(1, 2),
    width=st.sampled_from([1, 7, 16, 17]),
    kind=st.sampled_from(KINDS),
    shared=st.booleans(),
    slope=st.booleans(),
)
def test_any_shape(batch, queries, keys, heads, width, kind, shared, slope):
    torch.manual_seed(queries * keys + width)
    args = case(kind, batch, max(queries, 2), keys, heads, width, shared, slope=slope)
    with pytest.MonkeyPatch.context() as patch:
        run_with(patch, small)
        torch.testing.assert_close(module.biased_cross_attention(*args), reference(*args), **TOL)
        check_gradients(args)


def test_all_candidates_agree(monkeypatch):
    args, counts, first = case("hidden", batch=1, queries=67, keys=40), [], []
    for i in range(4):
        run_with(monkeypatch, lambda call, i=i: counts.append(len(call.tiles)) or call.tiles[i % len(call.tiles)])
        found = module.biased_cross_attention(*args), *module.biased_cross_attention_backward(
            torch.ones(1, 67, 5), args, (True,) * 5 + (False,)
        )  # fmt: skip
        found = [value for value in found if value is not None]
        first = first or found
        for new, old in zip(found, first, strict=True):
            torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5 * max(1.0, float(old.abs().max())))
    assert min(counts) >= 2


@pytest.mark.parametrize("kind", ["hidden", "bias"])
def test_bfloat16(small_tiles, kind):
    args = case(kind, dtype=torch.bfloat16, shared=True)
    actual = module.biased_cross_attention(*args)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual, reference(*args), **COARSE)
    check_gradients(args, COARSE)


def test_types_may_differ(small_tiles):
    q, k, v, bias, slope, packed = case("bias")
    args = q, k, v, bias.bfloat16(), slope.double(), packed
    torch.testing.assert_close(module.biased_cross_attention(*args), reference(*args), **TOL)
    check_gradients(args, COARSE)
    mixed = q.bfloat16(), k, v, bias, slope, packed
    torch.testing.assert_close(module.biased_cross_attention(*mixed), reference(*mixed), **COARSE)


def test_strides(small_tiles):
    """Keys and values side by side, heads before positions, scattered channels, a bias with queries innermost."""
    k, v = torch.randn(2, 20, 2, 2, 5).unbind(2)
    q = torch.randn(2, 2, 18, 10).transpose(1, 2)[..., ::2]
    bias, slope = torch.randn(2, 20, 18).transpose(1, 2), torch.tensor([1.0, 9.0, 2.0, 9.0])[::2]
    args = q, k, v, bias, slope, None
    torch.testing.assert_close(module.biased_cross_attention(*args), reference(*args), **TOL)
    check_gradients(args)
    expanded = (args[0][:1].expand(2, -1, -1, -1), *args[1:])
    grad = torch.ones(1).expand(2, 18, 10)
    found = module.biased_cross_attention_backward(grad, expanded, (True,) * 3 + (False,) * 3)
    for one, other in zip(found[:3], gradients(expanded, grad)[:3], strict=True):
        torch.testing.assert_close(one, other, **TOL)


@pytest.mark.parametrize("programs", [1, 4, 10_000])
def test_a_shared_query_sums_over_parts_of_the_batch(monkeypatch, small_tiles, programs):
    monkeypatch.setattr(_cross_attention_backward, "_PROGRAMS", programs)
    check_gradients(case("hidden", batch=7, queries=3, keys=5, shared=True))


def test_what_has_no_kernel_runs_the_reference(small_tiles):
    for args in (case("bias", width=129), [t.double() if torch.is_tensor(t) else t for t in case("bias")]):
        torch.testing.assert_close(module.biased_cross_attention(*args), reference(*args))
        assert module.biased_cross_attention_backward(torch.ones(()), tuple(args), (True,) * 6) is None
    assert not small_tiles
