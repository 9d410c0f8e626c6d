"""Triton kernels of stft_mask in the interpreter: any sizes and strides, several blocks, candidates, consistency."""

import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops.stft_mask import reference

# triton is an extra; `make test` installs it, so this runs in CI.
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

from ussfast.ops._triton import _call
from ussfast.ops._triton import stft_mask as module

pytestmark = pytest.mark.usefixtures("nan_filled_empty")
TOL = {"rtol": 1e-5, "atol": 1e-5}


def pairs(*shape):
    return torch.randn(*shape, 2)


def small(call):
    blocks = {"BLOCK_F": 4, "BLOCK_B": 8, "BLOCK": 32}
    return _call.tile(**{name: blocks[name] for name, _ in call.tiles[0].blocks})


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(module, "launch", lambda call, device: call.run(small(call)))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_any_sizes(data):
    n_fft = data.draw(st.integers(1, 20), "n_fft")
    length = data.draw(st.integers(1, n_fft), "window_length")
    hop = data.draw(st.integers(1, length), "hop")
    frames, samples = data.draw(st.integers(1, 8), "frames"), data.draw(st.integers(0, 90), "samples")
    batch, sources = data.draw(st.integers(0, 2), "batch"), data.draw(st.integers(0, 3), "sources")
    torch.manual_seed(data.draw(st.integers(0, 2**16), "seed"))
    bins = n_fft // 2 + 1
    mask = pairs(batch, sources, frames, bins)
    order = data.draw(st.permutations(range(5)), "order")
    mask = mask.permute(order).contiguous().permute([order.index(d) for d in range(5)])
    spec = pairs(batch, frames, bins) if data.draw(st.booleans(), "masked") else None
    consistency = spec is not None and data.draw(st.booleans(), "consistency")
    args = mask, spec, torch.rand(length) + 0.5, n_fft, hop, samples, data.draw(st.booleans(), "normalized")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "launch", lambda call, device: call.run(small(call)))
        actual = module.stft_mask(*args, consistency)
    assert actual.is_contiguous() and actual.dtype == torch.float32
    torch.testing.assert_close(actual, reference(*args, consistency), **TOL)


@pytest.mark.parametrize("consistency", [False, True])
@pytest.mark.parametrize("inner", ["bins", "frames"])
def test_all_candidates_agree(monkeypatch, inner, consistency):
    mask, spec = pairs(1, 2, 6, 33), pairs(1, 6, 33)
    if inner == "frames":
        mask = mask.permute(3, 0, 1, 2, 4).contiguous().permute(1, 2, 3, 0, 4)
    args, results, counts = (mask, spec, torch.hann_window(48), 64, 20, 120, False, consistency), [], []
    for i in range(4):

        def launch(call, device, i=i):
            counts.append(len(call.tiles))
            call.run(call.tiles[i % len(call.tiles)])

        monkeypatch.setattr(module, "launch", launch)
        results.append(module.stft_mask(*args))
        assert torch.equal(results[0], results[-1])
    torch.testing.assert_close(results[0], reference(*args), **TOL)
    assert min(counts) >= 3


def test_consistent_sources_add_up_to_the_mixture(small_tiles):
    mask, spec, window = pairs(1, 3, 9, 17), pairs(1, 9, 17), torch.hann_window(32)
    out = module.stft_mask(mask, spec, window, 32, 8, 60, False, True)
    mixture = module.stft_mask(spec[:, None], None, window, 32, 8, 60, False, False)
    torch.testing.assert_close(out.sum(1, keepdim=True), mixture, **TOL)


def test_silence_where_nothing_reaches(small_tiles):
    holes = torch.tensor([1.0, 0, 1, 1])
    audio = module.stft_mask(pairs(1, 1, 2, 9), None, holes, 16, 4, 20, False, False)
    assert audio[0, 0, :6].ne(0).tolist() == [True, True, True, False, True, True] and not audio[..., 6:].any()


def test_types(small_tiles):
    mask, spec, window = pairs(1, 2, 9, 17), pairs(1, 9, 17), torch.ones(32, dtype=torch.float64)
    for one, other in ((mask.bfloat16(), spec.bfloat16()), (mask.bfloat16(), spec), (mask.half(), spec.half())):
        args = one, other, window, 32, 8, 61, False, True
        expected = reference(*args)
        tolerance = TOL if expected.dtype == torch.float32 else {"rtol": 1.6e-2, "atol": 1.6e-2}
        torch.testing.assert_close(module.stft_mask(*args), expected, **tolerance)


def test_many_sources_run_the_reference(monkeypatch):
    monkeypatch.setattr(module, "launch", None)
    args = pairs(1, 17, 3, 5), None, torch.ones(8), 8, 4, 8, False, False
    assert torch.equal(module.stft_mask(*args), reference(*args))
