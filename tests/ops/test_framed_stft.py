"""What the contract does not say about framed_stft: the definition written out, any place in the ring, errors."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.ops import _fft, framed_stft
from ussfast.ops.framed_stft import reference

pytestmark = pytest.mark.usefixtures("nan_filled_empty")

LENGTHS = [n for n in range(2, 130, 2) if _fft.fits(n)]


def written_out(ring, begin, window, n_fft, hop, frames):
    """In double precision, sample by sample."""
    shape = [0.0] * n_fft
    before = (n_fft - len(window)) // 2
    shape[before : before + len(window)] = window.tolist()
    rows = []
    for samples, start in zip(ring.tolist(), begin.tolist(), strict=True):
        frame = [
            [samples[(start + t * hop + i) % len(samples)] * shape[i] for i in range(n_fft)] for t in range(frames)
        ]
        rows.append(torch.fft.rfft(torch.tensor(frame, dtype=torch.float64)))
    return torch.view_as_real(torch.stack(rows))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_place_in_the_ring(data):
    n_fft = data.draw(st.sampled_from(LENGTHS) | st.integers(1, 40), "n_fft")
    hop, frames = data.draw(st.integers(1, 50), "hop"), data.draw(st.integers(1, 6), "frames")
    capacity = (frames - 1) * hop + n_fft + data.draw(st.integers(0, 20), "spare")
    places = st.integers(-2 * capacity, 3 * capacity) | st.sampled_from([-(2**63), 2**63 - 1])
    begin = data.draw(st.lists(places, min_size=1, max_size=4), "begin")
    window = torch.rand(data.draw(st.integers(1, n_fft), "window_length")) + 0.1
    torch.manual_seed(data.draw(st.integers(0, 2**16), "seed"))
    ring, begin = torch.randn(len(begin), capacity), torch.tensor(begin)
    actual = framed_stft(ring, begin, window, n_fft=n_fft, hop=hop, frames=frames)
    assert actual.shape == (len(begin), frames, n_fft // 2 + 1, 2) and actual.dtype == torch.float32
    expected = written_out(ring, begin, window, n_fft, hop, frames)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-5, atol=1e-5)
    plain = reference(ring, begin, window, n_fft, hop, frames)
    torch.testing.assert_close(actual, plain, rtol=1e-5, atol=1e-5)


def test_a_stream_is_the_stft_of_its_audio():
    audio, window, n_fft, hop = torch.randn(40 * 640), torch.hann_window(1280).sqrt(), 1280, 640
    expected = torch.view_as_real(torch.stft(audio, n_fft, hop, window=window, center=False, return_complex=True).T)
    capacity = 3 * hop  # the newest frame and one hop that is being written
    ring = audio.new_zeros(1, capacity)
    for t, chunk in enumerate(audio.split(hop)):
        ring[0, t * hop % capacity :][:hop] = chunk
        if t:
            begin = torch.tensor([(t - 1) * hop])
            frame = framed_stft(ring, begin, window, n_fft=n_fft, hop=hop, frames=1)[0, 0]
            torch.testing.assert_close(frame, expected[t - 1], rtol=1e-5, atol=1e-4)  # sums of some 1000 samples


def test_bit_for_bit_the_same_whatever_the_threads():
    ring, before = torch.randn(3, 20_000), torch.get_num_threads()
    arguments = torch.tensor([0, 9999, -1]), torch.hann_window(512)
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(framed_stft(ring, *arguments, n_fft=512, hop=128, frames=100))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(
    "ring, begin, dtype", [((2, 30, 1), (2,), torch.int64), ((2, 30), (3,), torch.int64), ((2, 30), (2,), torch.int32)]
)
def test_bad_shapes_are_named(ring, begin, dtype):
    text = f"got ring {list(ring)}, begin {list(begin)} {dtype}"
    with pytest.raises(ValueError, match=re.escape(text)):
        framed_stft(torch.ones(ring), torch.zeros(begin, dtype=dtype), torch.ones(8), n_fft=8, hop=4, frames=2)


@pytest.mark.parametrize(
    "window, hop, frames", [((9,), 4, 2), ((0,), 4, 2), ((8, 1), 4, 2), ((8,), 0, 2), ((8,), 4, 0)]
)
def test_bad_sizes_are_named(window, hop, frames):
    text = f"got window {list(window)}, n_fft 8, hop {hop}, frames {frames}"
    with pytest.raises(ValueError, match=re.escape(text)):
        begin = torch.zeros(2, dtype=torch.int64)
        framed_stft(torch.ones(2, 30), begin, torch.ones(window), n_fft=8, hop=hop, frames=frames)


def test_frames_longer_than_the_ring_and_integers_are_refused():
    begin, window = torch.zeros(2, dtype=torch.int64), torch.ones(8)
    with pytest.raises(ValueError, match=r"need a ring of at least 16 samples, got ring \[2, 15\]"):
        framed_stft(torch.ones(2, 15), begin, window, n_fft=8, hop=4, frames=3)
    with pytest.raises(ValueError, match="floating-point.*int16"):
        framed_stft(torch.ones(2, 16, dtype=torch.int16), begin, window, n_fft=8, hop=4, frames=3)
