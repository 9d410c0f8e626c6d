"""What the contract does not say about the locoformer ops: long sequences, odd shapes, precisions, packing, errors."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.ops import locoformer_attention, locoformer_ffn, use_reference
from ussfast.ops._quantize import under_autocast
from ussfast.ops.locoformer_attention import pack as pack_attention
from ussfast.ops.locoformer_ffn import pack as pack_ffn

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
TOL = {"rtol": 1e-5, "atol": 1e-5}
# Packing exists only in the kernels; FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
needs_kernel = pytest.mark.skipif(cpu_isa() is None, reason="the C++ kernels are not loaded")


def ffn_weights(channels, hidden, kernel):
    """Scaled so that hidden units and results are of unit size."""
    return (
        torch.rand(channels) + 0.5,
        torch.randn(2 * hidden, channels, kernel) * (channels * kernel) ** -0.5,
        torch.randn(2 * hidden) * 0.1,
        torch.randn(hidden, channels, kernel) * (hidden * kernel) ** -0.5,
        torch.randn(channels) * 0.1,
    )


def attention_weights(channels, width, heads, rope=True):
    half = width // heads // 2
    return (
        torch.rand(channels) + 0.5,
        torch.randn(3 * width, channels) * channels**-0.5,
        torch.randn(channels, width) * width**-0.5,
        10000 ** (-torch.arange(half) / max(half, 1)) if rope else None,
    )


def both(op, *args, **more):
    """The kernel's and the reference's answer; without gradients, which would mean the reference twice."""
    with torch.no_grad():
        native = op(*args, **more)
        with use_reference():
            return native, op(*args, **more)


def same(op, *args, **more):
    native, reference = both(op, *args, **more)
    torch.testing.assert_close(native, reference, **TOL)


@pytest.mark.parametrize("axis", [1, 2])
@pytest.mark.parametrize(
    "kernel, more",
    [
        (1, {}),
        (4, {}),
        (8, {}),
        (4, {"stride": 2}),
        (8, {"stride": 2}),
        (4, {"stride": 4}),
        (8, {"stride": 4}),
    ],
)
def test_ffn_of_a_long_sequence(kernel, more, axis):
    x = torch.randn(1, 531, 2, 40)
    x = x if axis == 1 else x.transpose(1, 2)
    same(locoformer_ffn, x, *ffn_weights(40, 70, kernel), axis=axis, groups=4, **more)


@pytest.mark.parametrize("axis", [1, 2])
def test_attention_of_a_long_sequence(axis):
    x = torch.randn(1, 331, 2, 40)
    x = x if axis == 1 else x.transpose(1, 2)
    same(locoformer_attention, x, *attention_weights(40, 48, 3), axis=axis, groups=4, heads=3)


SHAPES = {
    "batch": st.sampled_from([0, 1, 3]),
    "frames": st.integers(1, 40),
    "bands": st.integers(1, 5),
    "groups": st.integers(1, 3),
    "group": st.integers(1, 13),
    "axis": st.sampled_from([1, 2]),
    "strided": st.booleans(),
}


def draw_input(batch, frames, bands, channels, strided):
    torch.manual_seed(frames * channels + bands)
    if strided:  # batch innermost, every other frame
        return torch.randn(2 * frames, bands, channels, batch).permute(3, 0, 1, 2)[:, ::2]
    return torch.randn(batch, frames, bands, channels)


@settings(max_examples=40, deadline=None)
@given(**SHAPES, hidden=st.integers(1, 40), kernel=st.integers(1, 9), stride=st.integers(1, 4))
def test_ffn_of_any_shape(batch, frames, bands, groups, group, axis, strided, hidden, kernel, stride):
    x = draw_input(batch, frames, bands, groups * group, strided)
    weights = ffn_weights(groups * group, hidden, kernel)
    same(locoformer_ffn, x, *weights, axis=axis, groups=groups, stride=min(stride, kernel), eps=1e-2)


@settings(max_examples=40, deadline=None)
@given(
    **SHAPES,
    heads=st.integers(1, 3),
    pairs=st.integers(1, 9),
    rope=st.booleans(),
)
def test_attention_of_any_shape(batch, frames, bands, groups, group, axis, strided, heads, pairs, rope):
    x = draw_input(batch, frames, bands, groups * group, strided)
    weights = attention_weights(groups * group, 2 * heads * pairs, heads, rope)
    same(locoformer_attention, x, *weights, axis=axis, groups=groups, heads=heads, eps=1e-2)


def branch_error(actual, expected, x):
    """Distance of two results as a share of what the layer adds to its input."""
    return ((actual - expected).norm() / (expected - x).norm()).item()


@pytest.mark.parametrize("axis, kernel, more", [(1, 4, {}), (2, 8, {"stride": 4}), (1, 1, {})])
@pytest.mark.parametrize("precision, least_snr", [("int8", 30), ("bfloat16", 40)])
def test_reduced_precision(precision, least_snr, axis, kernel, more):
    """Rounding is that of the emulation, but for ties; and it costs no more than it should."""
    x, weights = torch.randn(1, 150, 30, 64), ffn_weights(64, 100, kernel)
    more = {"axis": axis, "groups": 4, **more}
    native, emulated = both(locoformer_ffn, x, *weights, precision=precision, **more)
    exact = both(locoformer_ffn, x, *weights, **more)[1]
    assert branch_error(native, emulated, x) < 1e-3
    assert branch_error(native, exact, x) < 10 ** (-least_snr / 20)


@pytest.mark.parametrize("axis", [1, 2])
def test_reduced_precision_of_attention(axis):
    x, weights = torch.randn(1, 150, 40, 32), attention_weights(32, 48, 2)
    more = {"axis": axis, "groups": 4, "heads": 2}
    native, emulated = both(locoformer_attention, x, *weights, precision="int8", **more)
    exact = both(locoformer_attention, x, *weights, **more)[1]
    assert branch_error(native, emulated, x) < 1e-3
    assert branch_error(native, exact, x) < 10 ** (-30 / 20)


@needs_kernel
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "int8"])
def test_packed_ffn_is_the_same_bit_for_bit(precision):
    x, weights, other = torch.randn(1, 30, 5, 24), ffn_weights(24, 50, 4), ffn_weights(24, 70, 4)
    more = {"axis": 1, "groups": 4, "precision": precision}
    with torch.no_grad():
        fresh = locoformer_ffn(x, *weights, **more)
        assert torch.equal(locoformer_ffn(x, *weights, pack_ffn(*weights, 4, precision), **more), fresh)
        with pytest.raises(RuntimeError, match="packed weights are for other settings"):
            locoformer_ffn(x, *weights, pack_ffn(*other, 4, precision), **more)


@needs_kernel
@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_packed_attention_is_the_same_bit_for_bit(precision):
    x, weights, other = torch.randn(1, 130, 2, 24), attention_weights(24, 32, 2), attention_weights(24, 64, 2)
    more = {"axis": 1, "groups": 4, "heads": 2, "precision": precision}
    with torch.no_grad():
        fresh = locoformer_attention(x, *weights, **more)
        packed = pack_attention(*weights[:3], 2, 4, precision)
        assert torch.equal(locoformer_attention(x, *weights, packed, **more), fresh)
        with pytest.raises(RuntimeError, match="packed weights are for other settings"):
            locoformer_attention(x, *weights, pack_attention(*other[:3], 2, 4, precision), **more)


@needs_kernel
@pytest.mark.parametrize("sequences", [1, 7])
def test_threads_do_not_change_a_bit(sequences):
    x, before, results = torch.randn(1, 300, sequences, 32), torch.get_num_threads(), []
    ffn, attention = ffn_weights(32, 48, 4), attention_weights(32, 32, 2)
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            with torch.no_grad():
                found = [
                    locoformer_ffn(x, *ffn, axis=1, groups=4, precision=precision)
                    for precision in ("float32", "bfloat16", "int8")
                ]
                found += [
                    locoformer_attention(x, *attention, axis=1, groups=4, heads=2, precision=precision)
                    for precision in ("float32", "int8")
                ]
            results.append(found)
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*results, strict=True):
        assert torch.equal(one, two)


def test_ffn_errors():
    x, weights = torch.randn(1, 4, 3, 8), ffn_weights(8, 6, 4)
    more = {"axis": 1, "groups": 2}
    for i in range(len(weights)):
        with pytest.raises(InputError, match=r"locoformer_ffn needs x .*got x \[1, 4, 3, 8\], axis 1"):
            locoformer_ffn(x, *weights[:i], weights[i][:-1], *weights[i + 1 :], **more)
    for wrong in ({"axis": 3}, {"axis": 0}, {"groups": 3}, {"groups": 0}):
        with pytest.raises(InputError, match="locoformer_ffn needs"):
            locoformer_ffn(x, *weights, **(more | wrong))
    with pytest.raises(InputError, match="locoformer_ffn needs"):
        locoformer_ffn(x[0], *weights, **more)
    with pytest.raises(InputError, match="precision must be one of float32, bfloat16, int8, got 'int4'"):
        locoformer_ffn(x, *weights, **more, precision="int4")
    for wrong in ({"stride": 0}, {"stride": 5}):
        with pytest.raises(InputError, match=f"stride {wrong['stride']}: 1 to the kernel"):
            locoformer_ffn(x, *weights, **more, **wrong)


def test_attention_errors():
    x, weights = torch.randn(1, 4, 3, 8), attention_weights(8, 12, 3)
    more = {"axis": 1, "groups": 2, "heads": 3}
    for i in range(len(weights)):
        with pytest.raises(InputError, match=r"locoformer_attention needs x .*got x \[1, 4, 3, 8\], axis 1"):
            locoformer_attention(x, *weights[:i], weights[i][:-1], *weights[i + 1 :], **more)
    for wrong in ({"axis": 3}, {"groups": 3}, {"heads": 5}, {"heads": 0}):
        with pytest.raises(InputError, match="locoformer_attention needs"):
            locoformer_attention(x, *weights, **(more | wrong))


@needs_kernel
def test_results_that_are_in_use_keep_their_memory():
    """Large results lie in recycled buffers: of tensors that are gone, and of no others."""
    weights, more = ffn_weights(64, 16, 1), {"axis": 2, "groups": 4}
    with torch.no_grad():
        held, copies = [], []
        for _ in range(8):
            held.append(locoformer_ffn(torch.randn(1, 100, 50, 64), *weights, **more))
            copies.append(held[-1].clone())
            locoformer_ffn(torch.randn(1, 100, 50, 64), *weights, **more)  # gone at once
        assert len({t.data_ptr() for t in held}) == len(held)
        view = held.pop()[0, 1]
        again = [locoformer_ffn(torch.randn(1, 100, 50, 64), *weights, **more) for _ in range(4)]
    assert all(torch.equal(a, b) for a, b in zip(held, copies, strict=False))
    assert torch.equal(view, copies[-1][0, 1]) and len(again) == 4


@pytest.mark.parametrize(
    "cuda, enabled, dtype, reference, precision, expected",
    [
        (True, True, torch.bfloat16, False, "float32", "bfloat16"),
        (True, True, torch.bfloat16, True, "float32", "float32"),
        (True, True, torch.float16, False, "float32", "float32"),
        (True, False, torch.bfloat16, False, "float32", "float32"),
        (False, True, torch.bfloat16, False, "float32", "float32"),
        (True, True, torch.bfloat16, False, "int8", "int8"),
    ],
)
def test_precision_follows_autocast_on_a_gpu(monkeypatch, cuda, enabled, dtype, reference, precision, expected):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: enabled and device == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device: dtype)
    with use_reference(reference):
        assert under_autocast(SimpleNamespace(is_cuda=cuda), precision) == expected
