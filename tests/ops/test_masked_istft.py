"""The kernel that a GPU runs behind stft_mask, here on the CPU by the same code: equal to the op's reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast import _ext
from ussfast.ops import _fft
from ussfast.ops.stft_mask import reference

# The kernel is C++ and has no other form.
pytestmark = [
    pytest.mark.usefixtures("nan_filled_empty"),
    pytest.mark.skipif(_ext.cpu_isa() is None, reason="the C++ kernels are not loaded"),
]

LENGTHS = [n for n in range(2, 130, 2) if _fft.fits(n)]


def run(*arguments):
    return torch.ops.ussfast._masked_istft(*arguments)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_any_sizes(data):
    n_fft = data.draw(st.sampled_from(LENGTHS), "n_fft")
    length = data.draw(st.integers(1, n_fft), "window_length")
    hop = data.draw(st.integers(1, length), "hop")
    frames = data.draw(st.integers(1, 40) | st.integers(200, 400), "frames")  # a hop per run, or several
    samples = data.draw(st.integers(0, (frames + 2) * hop + n_fft), "samples")  # also beyond the last window
    batch, sources = data.draw(st.integers(0, 2), "batch"), data.draw(st.integers(0, 3), "sources")
    torch.manual_seed(data.draw(st.integers(0, 2**16), "seed"))
    mask, spec = torch.randn(batch, sources, frames, n_fft // 2 + 1, 2), None
    if data.draw(st.booleans(), "masked"):
        spec = torch.randn(batch, frames, n_fft // 2 + 1, 2)
    window, normalized = torch.rand(length) + 0.5, data.draw(st.booleans(), "normalized")
    arguments = mask, spec, window, n_fft, hop, samples, normalized
    actual, expected = run(*arguments), reference(*arguments, False)
    assert actual.shape == (batch, sources, samples) and actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("n_fft, hop, frames", [(1280, 640, 25), (2048, 512, 33), (960, 480, 7), (4096, 1000, 9)])
def test_sizes_of_models(n_fft, hop, frames):
    mask, spec = torch.randn(2, 3, frames, n_fft // 2 + 1, 2), torch.randn(2, frames, n_fft // 2 + 1, 2)
    arguments = mask, spec, torch.hann_window(n_fft).sqrt(), n_fft, hop, (frames - 1) * hop, False
    torch.testing.assert_close(run(*arguments), reference(*arguments, False), rtol=1e-5, atol=1e-5)


def test_bfloat16_masks_are_computed_in_float32():
    mask, spec = torch.randn(2, 2, 9, 31, 2).bfloat16(), torch.randn(2, 9, 31, 2)
    rest = torch.rand(60) + 0.5, 60, 20, 160, False
    assert torch.equal(run(mask, spec, *rest), run(mask.float(), spec, *rest))
    short = run(mask, None, *rest)
    assert short.dtype == torch.bfloat16 and torch.equal(short, run(mask.float(), None, *rest).bfloat16())
    assert torch.equal(run(mask.half(), spec, *rest), run(mask.half().float(), spec, *rest))


def test_any_strides():
    mask, spec, rest = torch.randn(2, 3, 9, 17, 2), torch.randn(2, 9, 17, 2), (torch.rand(32) + 0.5, 32, 8, 61, False)
    expected = run(mask, spec, *rest)
    planes = mask.permute(4, 0, 1, 2, 3).contiguous().permute(1, 2, 3, 4, 0)
    frames_first = mask.permute(2, 1, 0, 3, 4).contiguous().permute(2, 1, 0, 3, 4)
    odd = torch.empty(spec.numel() + 1)[1:].view_as(spec).copy_(spec)  # pairs across the borders of 8 bytes
    for other in (planes, frames_first):
        assert torch.equal(run(other, odd, *rest), expected)
    same = mask[:, :1].expand_as(mask)
    assert torch.equal(run(same, spec, *rest)[:, 2], expected[:, 0])


def test_where_no_window_reaches_is_silence():
    window = torch.ones(4)
    window[1] = 0
    audio = run(torch.randn(1, 1, 2, 9, 2), None, window, 16, 4, 20, False)  # windows over samples -2 to 5
    assert audio[0, 0].ne(0).tolist() == [True, True, True, False, True, True] + [False] * 14


@pytest.mark.parametrize("n_fft, dtype", [(14, torch.float32), (15, torch.float32), (16, torch.float64)])
def test_what_it_cannot_compute_is_an_error(n_fft, dtype):
    with pytest.raises(RuntimeError, match="_masked_istft"):
        run(torch.ones(1, 1, 3, n_fft // 2 + 1, 2, dtype=dtype), None, torch.ones(8), n_fft, 4, 8, False)


def test_has_masked_istft_tells_where_it_can_be_called():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert _fft.has_masked_istft(cpu, 1280) and not _fft.has_masked_istft(cpu, 1282)
    row = next(row for row in _ext.kernels() if row["op"] == "stft_mask" and row["device"] == "cuda")
    assert _fft.has_masked_istft(cuda, 1280) == ("cuda c++" in row["kernel"])
