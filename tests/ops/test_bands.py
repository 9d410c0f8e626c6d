"""What the contract does not say about band_split and band_merge: the definition, real layouts, packing, errors."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast._ext import cpu_isa
from ussfast.errors import InputError
from ussfast.models.band_split import BandMerge, BandSplit, tuss_bands
from ussfast.ops import band_merge, band_split, use_reference
from ussfast.ops._op import OPS
from ussfast.ops.band_merge import pack as pack_merge
from ussfast.ops.band_split import pack as pack_split

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
TOL = {"rtol": 1e-5, "atol": 1e-5}
TUSS = tuss_bands(48000, 1025)
LAYOUTS = st.lists(st.integers(1, 40), min_size=1, max_size=5)


def norm(x, weight, bias):
    """One band: [batch, frames, channels]."""
    centred = x - x.mean((1, 2), keepdim=True)
    return centred / (centred.square().mean((1, 2), keepdim=True) + 1e-5).sqrt() * weight + bias


def plain_split(spec, gamma, beta, weight, bias, bands):
    """The definition, one band at a time, in float64."""
    spec, gamma, beta, weight, bias = (t.double() for t in (spec, gamma, beta, weight, bias))
    sizes = [2 * width for width in bands]
    parts = zip(
        spec.flatten(2).split(sizes, 2), gamma.split(sizes), beta.split(sizes),
        weight.split([size * bias.shape[1] for size in sizes]), bias, strict=True,
    )  # fmt: skip
    return torch.stack([norm(x, g, b) @ w.view(-1, x.shape[2]).T + c for x, g, b, w, c in parts], 2)


def plain_merge(x, gamma, beta, weight1, bias1, weight2, bias2, weight3, bias3, bands, sources):
    out, at = [], 0
    weight3 = weight3.double().view(-1, weight1.shape[1])
    for band, width in enumerate(bands):
        h = norm(x[:, :, band].double(), gamma[band].double(), beta[band].double())
        h = torch.tanh(h @ weight1[band].double().T + bias1[band].double())
        h = torch.tanh(h @ weight2[band].double().T + bias2[band].double())
        rows = slice(at, at + 4 * width * sources)
        y = F.glu(h @ weight3[rows].T + bias3[rows].double(), -1).unflatten(-1, (sources, 2, width))
        out.append(y.permute(0, 2, 1, 4, 3))
        at = rows.stop
    return torch.cat(out, 3)


def split_weights(bands, dim):
    weight = torch.cat([torch.randn(dim * 2 * width) * (2 * width) ** -0.5 for width in bands])
    return torch.rand(2 * sum(bands)) + 0.5, torch.randn(2 * sum(bands)), weight, torch.randn(len(bands), dim)


def merge_weights(bands, dim, hidden, sources):
    count, rows = len(bands), 4 * sum(bands) * sources
    return (
        torch.rand(count, dim) + 0.5, torch.randn(count, dim) * 0.1,
        torch.randn(count, hidden, dim) * dim**-0.5, torch.randn(count, hidden) * 0.1,
        torch.randn(count, hidden, hidden) * hidden**-0.5, torch.randn(count, hidden) * 0.1,
        torch.randn(rows * hidden) * hidden**-0.5, torch.randn(rows) * 0.1,
    )  # fmt: skip


def both(call):
    """The kernel's and the reference's answer; without gradients, which would mean the reference twice."""
    with torch.no_grad():
        native = call()
        with use_reference():
            return native, call()


@pytest.mark.parametrize("module", [BandSplit, BandMerge])
def test_modules_are_the_definition_on_the_layout_of_tuss(module):
    if module is BandSplit:
        layer, x = BandSplit(TUSS, 64), torch.randn(2, 70, 1025, dtype=torch.complex64)
        expected = plain_split(torch.view_as_real(x), *layer.op_weights(), TUSS)
    else:
        layer, x = BandMerge(TUSS, 64, 1), torch.randn(1, 70, 61, 64)
        expected = plain_merge(x, *layer.op_weights(), TUSS, 1)
    for actual in both(lambda: layer(x)):
        torch.testing.assert_close(actual, expected.float().detach(), **TOL)


@settings(max_examples=25, deadline=None)
@given(bands=LAYOUTS, batch=st.integers(1, 2), frames=st.integers(2, 110), dim=st.integers(1, 40))
def test_split_of_any_layout(bands, batch, frames, dim):
    torch.manual_seed(sum(bands) * frames)
    spec, weights = torch.randn(batch, frames, sum(bands), 2), split_weights(bands, dim)
    for actual in both(lambda: band_split(spec, *weights, bands=bands)):
        torch.testing.assert_close(actual, plain_split(spec, *weights, bands).float(), **TOL)


@settings(max_examples=25, deadline=None)
@given(
    bands=LAYOUTS,
    batch=st.integers(1, 2),
    frames=st.integers(2, 110),
    dim=st.integers(2, 40),
    hidden=st.integers(1, 40),
    sources=st.integers(1, 3),
)
def test_merge_of_any_layout(bands, batch, frames, dim, hidden, sources):
    torch.manual_seed(sum(bands) * frames)
    x, weights = torch.randn(batch, frames, len(bands), dim), merge_weights(bands, dim, hidden, sources)
    for actual in both(lambda: band_merge(x, *weights, bands=bands, sources=sources)):
        torch.testing.assert_close(actual, plain_merge(x, *weights, bands, sources).float(), **TOL)


def test_statistics_of_a_signal_far_from_zero():
    """A mean of a hundred deviations: squares of the raw signal would leave three digits."""
    bands = [3, 60]
    spec, weights = torch.randn(1, 200, 63, 2) + 100, split_weights(bands, 8)
    native, reference = both(lambda: band_split(spec, *weights, bands=bands))
    expected = plain_split(spec, *weights, bands).float()
    # The input itself has steps of 8e-6 deviations there.
    torch.testing.assert_close(native, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(reference, expected, rtol=1e-4, atol=1e-4)


def calls():
    """Per op: name, tensors with flat weights, pack(tensors), arguments behind `packed`."""
    bands = [2, 2, 13, 5]
    yield "band_split", (torch.randn(2, 210, 22, 2), *split_weights(bands, 20)), pack_split, [bands], [1e-5]
    yield "band_merge", (torch.randn(2, 210, 4, 12), *merge_weights(bands, 12, 40, 2)), pack_merge, [bands, 2], []


# Packing exists only in the kernels; FAIL_WITHOUT_EXT=1 makes a missing extension red where there is a compiler.
@pytest.mark.skipif(cpu_isa() is None, reason="no C++ kernels")
@pytest.mark.parametrize("index", [0, 1], ids=["band_split", "band_merge"])
def test_packed_weights_and_threads_change_no_bit(index):
    name, tensors, pack, more, rest = list(calls())[index]
    op, packed = OPS[name].overload, pack(*tensors[3:], *more)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(op(*tensors, packed, *more, *rest))
    finally:
        torch.set_num_threads(threads)
    results.append(op(*tensors, None, *more, *rest))
    assert all(torch.equal(results[0], other) for other in results[1:])
    for wrong in (packed[:-1], packed.float()):
        with pytest.raises(RuntimeError, match="packed weights are for other settings"):
            op(*tensors, wrong, *more, *rest)


def test_modules_keep_prepared_weights_until_they_may_be_old():
    split, merge = BandSplit((1, 1, 3), 4).eval(), BandMerge((1, 1, 3), 4, 2).eval()
    inputs = torch.randn(1, 6, 5, dtype=torch.complex64), torch.randn(1, 6, 3, 4)
    for module, x in zip((split, merge), inputs, strict=True):
        keys = module.state_dict().keys()
        with torch.no_grad():
            fresh = module(x)
            module.prepare("int8")  # of the model; bands stay float32
            assert torch.equal(module(x), fresh)
            assert module.state_dict().keys() == keys and not list(module.buffers())
            module.get_parameter("weights.0" if module is split else "weight2").add_(1)
        changed = module(x)  # where gradients are recorded, only the parameters count
        assert changed.requires_grad and not torch.allclose(changed, fresh)
        with torch.no_grad():
            module.prepare("float32")
            torch.testing.assert_close(module(x), changed.detach(), **TOL)
        for drop in (module.train, module.float, lambda m=module: m.load_state_dict(m.state_dict())):
            module.prepare("float32")
            assert module._prepared is not None
            drop()
            assert module._prepared is None
        module.prepare("float32")
        assert module.eval()._prepared is not None
        with pytest.raises(InputError, match="precision"):
            module.prepare("fp8")


@pytest.mark.parametrize("bands", [[], [2, 0, 3], [2, 2]])
def test_bands_that_do_not_fit(bands):
    with pytest.raises(InputError, match="band_split"):
        band_split(torch.randn(1, 2, 5, 2), *split_weights([2, 3], 4), bands=bands)
    with pytest.raises(InputError, match="band_merge"):
        band_merge(torch.randn(1, 2, 2, 4), *merge_weights([2, 3], 4, 6, 1), bands=bands, sources=1)


def test_shapes_that_do_not_fit():
    spec, x = torch.randn(1, 2, 5, 2), torch.randn(1, 2, 2, 4)
    good = split_weights([2, 3], 4)
    for i in range(len(good)):
        with pytest.raises(InputError, match="band_split of 2 bands"):
            band_split(spec, *good[:i], good[i][:-1], *good[i + 1 :], bands=[2, 3])
    with pytest.raises(InputError, match="band_split of 2 bands"):
        band_split(spec[..., 0], *good, bands=[2, 3])
    good = merge_weights([2, 3], 4, 6, 1)
    for i in range(len(good)):
        with pytest.raises(InputError, match="band_merge of 2 bands"):
            band_merge(x, *good[:i], good[i][:-1], *good[i + 1 :], bands=[2, 3], sources=1)
    for sources in (0, 2):
        with pytest.raises(InputError, match=f"to {sources} sources"):
            band_merge(x, *good, bands=[2, 3], sources=sources)
