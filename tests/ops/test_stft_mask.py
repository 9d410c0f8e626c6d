"""What the contract does not say about stft_mask: the same as torch.istft, any sizes, bad arguments, threads."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast import _ext, stft
from ussfast.ops import stft_mask
from ussfast.ops.stft_mask import reference
from ussfast.stft import StftConfig

pytestmark = pytest.mark.usefixtures("nan_filled_empty")


@pytest.fixture(autouse=True)
def _not_training():
    """While gradients are recorded the function would run its reference."""
    with torch.no_grad():
        yield


def pairs(*shape):
    return torch.randn(*shape, 2)


def by_istft(mask, spec, window, n_fft, hop, samples, normalized, consistency=False):
    """The definition in double precision, which torch.istft refuses if it leaves a sample out."""
    product = torch.view_as_complex(mask.double().contiguous())
    if consistency:
        product = product + (1 - product.sum(1, keepdim=True)) / mask.shape[1]
    if spec is not None:
        product = product * torch.view_as_complex(spec.double().contiguous())[:, None]
    audio = torch.istft(
        product.flatten(0, 1).transpose(1, 2), n_fft, hop, window.shape[0], window.double(),
        normalized=normalized, length=samples,
    )  # fmt: skip
    return audio.unflatten(0, mask.shape[:2])


@pytest.mark.parametrize("normalize", [None, "default", "window"])
@pytest.mark.parametrize("padding, shape", [("zero", "sqrt_hann"), ("reflect", "hann")])
@pytest.mark.parametrize(
    "n_fft, hop, length, samples", [(64, 16, 64, 700), (128, 32, 96, 1000), (96, 20, 80, 9999), (512, 128, 512, 50_001)]
)
def test_the_same_as_istft(n_fft, hop, length, samples, padding, shape, normalize):
    config = StftConfig(n_fft, hop, length, shape, padding, normalize)
    spec = stft.analyze(torch.randn(2, samples), config)
    mask = torch.view_as_complex(pairs(2, 3, *spec.shape[1:]))
    window = stft.window(config)
    length = max(samples, n_fft // 2 + 1)
    expected = torch.istft(
        (mask * spec[:, None]).flatten(0, 1).transpose(1, 2), n_fft, hop, window.shape[0], window,
        normalized=normalize == "default", length=length,
    )[:, :samples].unflatten(0, (2, 3))  # fmt: skip
    assert torch.equal(
        stft.synthesize(torch.view_as_real(mask), config, samples, spec),
        stft_mask(
            torch.view_as_real(mask), torch.view_as_real(spec), window,
            n_fft=n_fft, hop=hop, samples=length, normalized=normalize == "default",
        )[..., :samples],
    )  # fmt: skip
    sizes = {"n_fft": n_fft, "hop": hop, "samples": samples}
    sizes["normalized"] = normalize == "default"
    actual = stft_mask(torch.view_as_real(mask), torch.view_as_real(spec), window, **sizes)
    close = {"rtol": 1e-5, "atol": 1e-5 * float(expected.abs().max())}  # of the scale that the normalisation gives
    torch.testing.assert_close(actual, expected, **close)
    masked = torch.view_as_real(mask * spec[:, None])
    torch.testing.assert_close(stft_mask(masked, None, window, **sizes), expected, **close)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_sizes(data):
    n_fft = data.draw(st.integers(1, 40), "n_fft")
    length = data.draw(st.integers(1, n_fft), "window_length")
    hop = data.draw(st.integers(1, length), "hop")
    frames = data.draw(st.integers(1, 60) | st.integers(250, 900), "frames")  # one block, or several
    # Up to the end of the last window there is no sample that torch.istft could refuse, except in front.
    covered = (frames - 1) * hop + (n_fft - length) // 2 + length - n_fft // 2
    samples = data.draw(st.integers(0, max(covered, 0)), "samples")
    batch, sources = data.draw(st.integers(0, 2), "batch"), data.draw(st.integers(0, 3), "sources")
    torch.manual_seed(data.draw(st.integers(0, 2**16), "seed"))
    bins = n_fft // 2 + 1
    mask = pairs(batch, sources, frames, bins)
    spec = pairs(batch, frames, bins) if data.draw(st.booleans(), "masked") else None
    window, normalized = torch.rand(length) + 0.5, data.draw(st.booleans(), "normalized")
    arguments = {"n_fft": n_fft, "hop": hop, "samples": samples, "normalized": normalized}
    arguments["consistency"] = spec is not None and data.draw(st.booleans(), "consistency")
    actual = stft_mask(mask, spec, window, **arguments)
    assert actual.shape == (batch, sources, samples) and actual.dtype == torch.float32
    plain = reference(mask, spec, window, **arguments)
    torch.testing.assert_close(actual, plain, rtol=1e-5, atol=1e-5)
    if actual.numel():
        expected = by_istft(mask, spec, window, **arguments)
        torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sources", [1, 2, 5])
def test_consistent_sources_add_up_to_the_mixture(sources):
    config = StftConfig(64, 16, 64, "hann", "reflect")
    audio = torch.randn(2, 700)
    spec = stft.analyze(audio, config)
    mask = pairs(2, sources, *spec.shape[1:])
    out = stft.synthesize(mask, config, 700, spec, consistency=True)
    torch.testing.assert_close(out.sum(1), audio, rtol=1e-5, atol=1e-5)
    alone = stft.synthesize(torch.view_as_real(spec)[:, None], config, 700)[:, 0]
    torch.testing.assert_close(out.sum(1), alone, rtol=1e-5, atol=1e-5)
    # Masks that add up already stay as they are.
    same = torch.view_as_real(torch.ones_like(spec)[:, None] / sources).expand(-1, sources, -1, -1, -1)
    before, after = (stft.synthesize(same, config, 700, spec, consistency=c) for c in (False, True))
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_consistency_needs_a_mixture():
    with pytest.raises(ValueError, match="consistency needs spec"):
        stft_mask(torch.ones(1, 2, 3, 9, 2), None, torch.ones(16), n_fft=16, hop=4, samples=8, consistency=True)


def test_behind_the_frames_and_where_no_window_reaches_is_silence():
    mask, window = pairs(1, 1, 2, 9), torch.ones(4)
    audio = stft_mask(mask, None, window, n_fft=16, hop=4, samples=20)  # windows over samples -2 to 5
    assert audio[..., :6].all() and not audio[..., 6:].any()
    with pytest.raises(RuntimeError, match="window overlap add min"):
        by_istft(mask, None, window, 16, 4, 20, False)
    holes = torch.ones(4)
    holes[1] = 0
    audio = stft_mask(mask, None, holes, n_fft=4 + 12, hop=4, samples=6)
    assert audio[0, 0].ne(0).tolist() == [True, True, True, False, True, True]


def test_imaginary_parts_of_real_bins_have_no_effect():
    for n_fft in (8, 9):
        mask = pairs(1, 2, 5, n_fft // 2 + 1)
        clean = mask.clone()
        clean[..., 0, 1] = 0
        if n_fft % 2 == 0:
            clean[..., -1, 1] = 0
        both = [stft_mask(m, None, torch.ones(n_fft), n_fft=n_fft, hop=2, samples=8) for m in (mask, clean)]
        assert torch.equal(*both)


@pytest.mark.parametrize("order", [(4, 0, 1, 2, 3), (0, 1, 3, 2, 4), (2, 3, 4, 1, 0)])
def test_any_strides(order):
    inverse = [order.index(d) for d in range(5)]
    mask, spec, window = pairs(2, 3, 9, 17), pairs(2, 9, 17), torch.rand(64) + 0.5
    sizes = {"n_fft": 32, "hop": 8, "samples": 61}
    expected = stft_mask(mask, spec, window[::2].contiguous(), **sizes)
    moved = mask.permute(order).contiguous().permute(inverse)
    stretched = spec.repeat_interleave(2, 2)[:, :, ::2]
    torch.testing.assert_close(stft_mask(moved, stretched, window[::2], **sizes), expected)
    same = mask[:, :1].expand_as(mask)
    torch.testing.assert_close(stft_mask(same, spec, window[::2], **sizes)[:, 2], expected[:, 0])


def test_dtype_is_the_wider_one():
    mask, spec, window = pairs(1, 2, 9, 17), pairs(1, 9, 17), torch.ones(32, dtype=torch.float64)
    sizes = {"n_fft": 32, "hop": 8, "samples": 61}
    short = stft_mask(mask.bfloat16(), spec.bfloat16(), window, **sizes)
    assert short.dtype == torch.bfloat16
    expected = stft_mask(mask.bfloat16().float(), spec.bfloat16().float(), window, **sizes)
    assert torch.equal(short, expected.bfloat16())
    assert torch.equal(
        stft_mask(mask.bfloat16(), spec, window, **sizes), stft_mask(mask.bfloat16().float(), spec, window, **sizes)
    )
    assert stft_mask(mask, spec.double(), window, **sizes).dtype == torch.float64


# The reference leaves the cutting into threads to torch, which promises nothing about the last bit.
@pytest.mark.skipif(_ext.cpu_isa() is None, reason="the C++ kernels are not loaded")
@pytest.mark.parametrize("n_fft, hop, frames, sources", [(2048, 512, 200, 2), (64, 16, 2000, 3), (2048, 512, 20, 1)])
def test_bit_for_bit_the_same_whatever_the_threads(n_fft, hop, frames, sources):
    mask, spec = pairs(1, sources, frames, n_fft // 2 + 1), pairs(1, frames, n_fft // 2 + 1)
    sizes, found, before = {"n_fft": n_fft, "hop": hop, "samples": (frames - 1) * hop}, [], torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(stft_mask(mask, spec, torch.hann_window(n_fft), **sizes))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_gradients_flow_through_the_public_function_also_next_to_unreached_samples():
    mask, spec = pairs(1, 2, 3, 9).requires_grad_(), pairs(1, 3, 9).requires_grad_()
    window = torch.ones(4, requires_grad=True)
    with torch.enable_grad():
        stft_mask(mask, spec, window, n_fft=16, hop=4, samples=30).square().sum().backward()
    for leaf in (mask, spec, window):
        assert leaf.grad is not None and leaf.grad.isfinite().all() and leaf.grad.any()


@pytest.mark.parametrize(
    "mask, spec, n_fft",
    [
        ((1, 2, 3, 9), (1, 3, 9, 2), 16),
        ((1, 2, 3, 9, 1), (1, 3, 9, 2), 16),
        ((1, 2, 3, 9, 2), (1, 3, 8, 2), 16),
        ((1, 2, 3, 9, 2), (2, 3, 9, 2), 16),
        ((1, 2, 3, 9, 2), (1, 3, 9, 2), 18),
        ((1, 2, 0, 9, 2), (1, 0, 9, 2), 16),
        ((1, 2, 3, 9, 2), None, 14),
    ],
)
def test_bad_shapes_are_named(mask, spec, n_fft):
    text = f"got mask {list(mask)}, spec {None if spec is None else list(spec)}, n_fft {n_fft}"
    with pytest.raises(ValueError, match=re.escape(text)):
        tensors = torch.ones(mask), None if spec is None else torch.ones(spec)
        stft_mask(*tensors, torch.ones(8), n_fft=n_fft, hop=4, samples=8)


@pytest.mark.parametrize(
    "window, hop, samples", [((17,), 4, 8), ((8,), 9, 8), ((8,), 0, 8), ((8, 1), 4, 8), ((8,), 4, -1)]
)
def test_bad_sizes_are_named(window, hop, samples):
    text = f"got window {list(window)}, hop {hop}, n_fft 16, samples {samples}"
    with pytest.raises(ValueError, match=re.escape(text)):
        stft_mask(torch.ones(1, 2, 3, 9, 2), None, torch.ones(window), n_fft=16, hop=hop, samples=samples)


def test_complex_numbers_are_refused():
    with pytest.raises(ValueError, match="view_as_real.*complex64"):
        stft_mask(torch.ones(1, 2, 3, 9, 2) + 0j, None, torch.ones(8), n_fft=16, hop=4, samples=8)
