"""Long audio cut into windows, with models whose exact answer is known."""

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.errors import InputError
from ussfast.long_audio.alignment import reorder
from ussfast.long_audio.windows import SegmentPolicy, separate_blocks

RATE = 1000


def signal(channels, samples, seed=0):
    return np.random.default_rng(seed).standard_normal((channels, samples)).astype(np.float32)


def blocks_of(audio, size):
    return [audio[:, at : at + size] for at in range(0, audio.shape[1], size)]


def joined(audio, run, policy, block=700, groups=(), rate=RATE):
    return np.concatenate(list(separate_blocks(blocks_of(audio, block), run, rate, policy, groups)), -1)


class PassThrough:
    """Gives the mixture as every source, scaled by its number; remembers the windows that it was given."""

    def __init__(self, sources=1):
        self.scale = np.arange(1, sources + 1, dtype=np.float32)[:, None, None]
        self.sizes = []

    def __call__(self, window):
        self.sizes.append(window.shape[1])
        return window * self.scale


@st.composite
def policies(draw):
    segment = draw(st.floats(0.004, 0.9))
    share = draw(st.sampled_from([0.0, 0.1, 1 / 3, 0.5, 0.8, 0.99]) | st.floats(0, 0.99))
    return SegmentPolicy(segment, segment * share, draw(st.sampled_from(["fade", "published"])))


@settings(max_examples=300, deadline=None)
@given(
    policy=policies(),
    samples=st.integers(1, 40) | st.integers(1, 4000),
    block=st.integers(1, 60) | st.integers(1, 5000),
    rate=st.sampled_from([1000, 997, 1103]),
)
def test_what_passes_through_comes_back(policy, samples, block, rate):
    audio, model = signal(2, samples), PassThrough(sources=2)
    out = joined(audio, model, policy, block, rate=rate)
    assert out.shape == (2, 2, samples) and out.dtype == np.float32
    np.testing.assert_allclose(out[0], audio, atol=1e-6)
    np.testing.assert_allclose(out[1], 2 * audio, atol=2e-6)
    whole = max(1, (int if policy.stitch == "published" else round)(policy.segment * rate))
    assert set(model.sizes) == ({whole} if samples > whole else {samples})


@pytest.mark.parametrize("stitch", ["fade", "published"])
@pytest.mark.parametrize(("segment", "overlap"), [(0.3, 0.1), (0.6, 0.2), (0.7, 0.6), (0.29, 0.0), (0.123, 0.0456)])
@pytest.mark.parametrize("rate", [8000, 11025])
def test_decimal_seconds_do_not_shift_the_audio(stitch, segment, overlap, rate):
    audio = signal(1, int(segment * rate * 9.7))
    out = joined(audio, PassThrough(), SegmentPolicy(segment, overlap, stitch), rate=rate)
    np.testing.assert_allclose(out[0], audio, atol=1e-6)


@pytest.mark.parametrize("stitch", ["fade", "published"])
def test_no_audio_gives_nothing(stitch):
    policy = SegmentPolicy(0.2, 0.1, stitch)
    assert list(separate_blocks([], PassThrough(), RATE, policy)) == []
    assert list(separate_blocks([np.zeros((2, 0), np.float32)], PassThrough(), RATE, policy)) == []


@pytest.mark.parametrize("stitch", ["fade", "published"])
def test_empty_blocks_between_others_change_nothing(stitch):
    audio, policy = signal(1, 2500), SegmentPolicy(0.2, 0.1, stitch)
    blocks = [part for block in blocks_of(audio, 90) for part in (audio[:, :0], block)]
    out = np.concatenate(list(separate_blocks(blocks, PassThrough(), RATE, policy)), -1)
    np.testing.assert_allclose(out[0], audio, atol=1e-6)


def shuffling(rng):
    """A model whose last three sources come in a random order in every window, and the orders so far."""
    seen = []

    def run(window):
        tracks = np.stack([window, np.abs(window), -np.square(window), np.sign(window)])
        order = [0, *(1 + rng.permutation(3))]
        seen.append(tuple(order))
        return tracks[order]

    return run, seen


@pytest.mark.parametrize("seed", range(4))
def test_sources_of_equal_prompts_keep_their_order(seed):
    audio = signal(2, 6000, seed)
    run, seen = shuffling(np.random.default_rng(seed))
    out = joined(audio, run, SegmentPolicy(0.5, 0.2), groups=((1, 2, 3),))
    tracks = np.stack([audio, np.abs(audio), -np.square(audio), np.sign(audio)])
    assert len(set(seen)) > 1  # it did shuffle
    np.testing.assert_allclose(out, tracks[list(seen[0])], atol=1e-5)  # the order of the first window


@pytest.mark.parametrize("groups", [(), ((2, 3),)])
def test_different_prompts_are_never_exchanged(groups):
    audio, windows = signal(1, 3000), []

    def swapping(window):
        windows.append(window)
        a, b = (window, np.abs(window)) if len(windows) % 2 else (np.abs(window), window)
        return np.stack([a, b, np.square(window), np.sign(window)])

    policy = SegmentPolicy(0.5, 0.2)
    out = joined(audio, swapping, policy, groups=groups)
    # In the middle of the second window, its own order shows.
    middle = slice(520, 570)
    np.testing.assert_allclose(out[0][:, middle], np.abs(audio[:, middle]), atol=1e-6)
    np.testing.assert_allclose(out[1][:, middle], audio[:, middle], atol=1e-6)


def test_many_equal_prompts_are_put_in_order_too():
    tracks = signal(8, 400)[:, None]
    order = np.random.default_rng(1).permutation(8)
    np.testing.assert_array_equal(reorder(tracks[..., :300], tracks[order], (tuple(range(8)),)), tracks)


def test_silent_sources_do_not_disturb_the_order():
    before = signal(3, 200)[:, None]
    new = before.copy()
    new[1] = 0
    for order in permutations(range(3)):
        back = reorder(before, new[list(order)], ((0, 1, 2),))
        np.testing.assert_array_equal(back, new)


def published(audio, run, size, overlap, shift):
    """Long audio as the TUSS scripts define it, from whole segments."""
    samples = audio.shape[1]
    if samples <= size:
        return run(audio)
    count = int(np.ceil((samples - overlap) / shift))
    stitched = None
    for i in range(count):
        segment = audio[:, i * shift : i * shift + size]
        true = segment.shape[1]
        new = run(np.pad(segment, ((0, 0), (0, size - true))))
        if stitched is None:
            stitched = new
            continue
        cut = stitched.shape[-1] - overlap
        middle = 0.5 * stitched[..., cut:] + 0.5 * new[..., :overlap]
        stitched = np.concatenate([stitched[..., :cut], middle, new[..., overlap:true]], -1)
    return stitched


@pytest.mark.parametrize(("size", "overlap"), [(400, 0), (400, 100), (400, 200), (400, 333)])
@pytest.mark.parametrize("samples", [399, 400, 401, 733, 2000, 2001])
def test_published_stitching_is_the_scripts_average(size, overlap, samples):
    def run(window):  # depends on the whole window, as real models do
        return np.stack([window / window.std(), np.cumsum(window, 1)]) * (1 + np.abs(window).max())

    audio = signal(2, samples)
    got = joined(audio, run, SegmentPolicy(size / RATE, overlap / RATE, "published"))
    np.testing.assert_allclose(got, published(audio, run, size, overlap, size - overlap), rtol=1e-5, atol=1e-5)


def test_published_stitching_can_solve_the_permutation():
    audio, turn = signal(1, 2000), []

    def swapping(window):
        turn.append(len(turn) % 2)
        tracks = np.stack([window, -0.5 * np.abs(window)])
        return tracks[::-1].copy() if turn[-1] else tracks

    tracks = np.stack([audio, -0.5 * np.abs(audio)])
    policy = SegmentPolicy(0.4, 0.2, "published", solve_permutation=True)
    np.testing.assert_allclose(joined(audio, swapping, policy), tracks, atol=1e-6)
    mixed_up = joined(audio, swapping, SegmentPolicy(0.4, 0.2, "published"))
    assert np.abs(mixed_up - tracks).max() > 0.1


@pytest.mark.parametrize("overlap", [0.2, 0.3, 0.5])
def test_what_windows_say_about_their_context_is_thrown_away(overlap):
    audio, windows = signal(1, 5000), []
    fade = round(0.1 * RATE)
    context = (round(overlap * RATE) - fade) // 2
    assert context > 0

    def corrupt(window):
        out = window[None].copy()
        if windows:
            out[..., :context] = 1e3  # at the edges that are inner seams
        if len(windows) < expected - 1:
            out[..., out.shape[-1] - context :] = -1e3
        windows.append(window)
        return out

    policy, counter = SegmentPolicy(0.8, overlap), PassThrough()
    joined(audio, counter, policy)
    expected = len(counter.sizes)
    out = joined(audio, corrupt, policy)
    assert len(windows) == expected > 3
    np.testing.assert_allclose(out[0], audio, atol=1e-5)


def test_seams_are_cross_faded():
    values = iter(range(100))
    out = joined(signal(1, 4000), lambda window: np.full((1, *window.shape), next(values), np.float32),
                 SegmentPolicy(1.0, 0.5))[0, 0]  # fmt: skip
    steps = np.diff(out)
    assert out[0] == 0 and out[-1] == next(values) - 1 > 3
    assert steps.min() >= -1e-6 and 0 < steps.max() < 0.03  # 100 samples for each step of 1
    assert np.count_nonzero(np.isclose(out, np.rint(out), atol=1e-7)) >= len(out) - 100 * out[-1]


@pytest.mark.parametrize("stitch", ["fade", "published"])
def test_blocks_are_taken_when_they_are_needed(stitch):
    taken, given_out = 0, 0

    def endless():
        nonlocal taken
        while True:
            taken += 37
            yield signal(1, 37, taken)

    policy = SegmentPolicy(0.4, 0.1, stitch)
    for number, part in enumerate(separate_blocks(endless(), PassThrough(), RATE, policy)):
        given_out += part.shape[-1]
        assert taken - given_out <= 400 + 37  # a window and a block
        if number == 200:
            break
    assert given_out > 200 * 290


@pytest.mark.parametrize("stitch", ["fade", "published"])
def test_memory_does_not_grow_with_the_duration(stitch):
    endless = (signal(1, 3700) for _ in iter(int, 1))
    parts = separate_blocks(endless, PassThrough(), 100_000, SegmentPolicy(0.4, 0.1, stitch))
    tracemalloc.start()
    try:
        peaks = []
        for _ in range(4):
            tracemalloc.reset_peak()
            for _ in range(25):
                next(parts)
            peaks.append(tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()
    # 25 windows are 3 MB; generous for numpy's own bookkeeping.
    assert peaks[-1] < peaks[0] + 500_000


@pytest.mark.parametrize(
    ("segment", "overlap"),
    [(0, 0), (-1, 0), (1, 1), (1, 2), (1, -0.1), (float("nan"), 0), (1, float("nan")), (float("inf"), 0)],
)
def test_windows_that_cannot_work(segment, overlap):
    with pytest.raises(InputError, match="need a segment above 0 s and an overlap from 0 s to below the segment"):
        SegmentPolicy(segment, overlap)


def test_unknown_stitching():
    with pytest.raises(InputError, match="stitch must be 'fade' or 'published', got 'sew'"):
        SegmentPolicy(1, 0, "sew")  # type: ignore[arg-type]


def test_a_shorter_policy_can_always_be_had():
    policy = SegmentPolicy(6, 2.1, "published", True)
    for _ in range(20):
        shorter = policy.shorter()
        assert shorter.segment == policy.segment / 2 and 0 <= shorter.overlap <= policy.overlap
        assert (shorter.stitch, shorter.solve_permutation) == ("published", True)
        policy = shorter
    assert SegmentPolicy(6, 2.1).shorter() == SegmentPolicy(3, 1.5)
    assert SegmentPolicy(6, 1).shorter() == SegmentPolicy(3, 1)
