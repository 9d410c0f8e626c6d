"""Windows with a declared look-ahead: how they grow, what they cost in time, and which settings cannot work."""

from itertools import pairwise

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from test_windows import PassThrough, joined, shuffling, signal
from tiny import RATE as MODEL_RATE
from tiny import noise, tiny_directory, tiny_model

from ussfast import InputError, SegmentPolicy, Separator
from ussfast.cli.main import main
from ussfast.long_audio.policy import default_policy, live_policy
from ussfast.long_audio.windows import FadeStitcher, StitchState

RATE = 1000


@st.composite
def live_policies(draw):
    segment = draw(st.floats(0.004, 0.9))
    overlap = segment * draw(st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.95]) | st.floats(0, 0.95))
    most = overlap - SegmentPolicy(segment, overlap, look_ahead=0.0).fade
    return SegmentPolicy(segment, overlap, look_ahead=most * draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1)))


def whole(window):
    """A model whose every sample depends on the whole window."""
    return np.stack([window + window.sum(dtype=np.float64), window * window.shape[1]]).astype(np.float32)


@settings(max_examples=200, deadline=None)
@given(
    policy=live_policies(),
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
    # Windows grow to the full one and stay there.
    assert model.sizes == sorted(model.sizes) and model.sizes[-1] == min(samples, max(1, round(policy.segment * rate)))


@settings(max_examples=60, deadline=None)
@given(policy=live_policies(), changed=st.integers(0, 2000), chunk=st.integers(1, 400))
def test_the_latency_is_exact(policy, changed, chunk):
    """Sample p is out when p + latency are in, and what comes from there on does not change it."""
    audio = signal(1, 2000)
    other = audio.copy()
    other[:, changed:] += 1
    outs = []
    for sound in (audio, other):
        stitcher, parts, given_out = FadeStitcher(whole, RATE, policy), [], 0
        for at in range(0, 2000, chunk):
            new = stitcher.push(sound[:, at : at + chunk])
            parts += new
            given_out += sum(part.shape[-1] for part in new)
            taken = min(2000, at + chunk)
            late = max(0, taken - stitcher.latency + 1)  # so many samples have waited for the latency
            assert late <= given_out == -(-late // stitcher.advance) * stitcher.advance
        outs.append(np.concatenate([*parts, *stitcher.flush()], -1))
    final = max(0, changed - stitcher.latency + 1)
    np.testing.assert_array_equal(outs[0][..., :final], outs[1][..., :final])


def test_no_smaller_latency_would_do():
    policy = SegmentPolicy(0.5, 0.4, look_ahead=0.05)
    stitcher = FadeStitcher(whole, RATE, policy)
    assert (stitcher.advance, stitcher.fade, stitcher.ahead, stitcher.latency) == (100, 25, 50, 175)
    audio = signal(1, 2000)
    before = joined(audio, whole, policy)
    for border in range(0, 1500, 100):
        audio[0, border + 174] += 1
        after = joined(audio, whole, policy)
        assert (before[0, 0, border] != after[0, 0, border]) and (before[..., :border] == after[..., :border]).all()
        before = after


def test_windows_lie_as_documented():
    windows = []

    def run(window):
        windows.append((int(window[0, 0]), int(window[0, -1]) + 1))
        return window[None].copy()

    joined(np.arange(990, dtype=np.float32)[None], run, SegmentPolicy(0.5, 0.4, look_ahead=0.05))
    ends = [*range(175, 990, 100), 990]
    assert windows == [(max(0, end - 500), end) for end in ends]


def test_context_is_thrown_away_on_both_sides():
    policy, audio = SegmentPolicy(0.8, 0.6, look_ahead=0.1), signal(1, 3000)
    cut = FadeStitcher(whole, RATE, policy)
    behind = cut.size - cut.latency  # what is left of the overlap

    def corrupt(window):
        out = window[None].copy()
        if window.shape[1] == cut.size:  # a grown one
            out[..., :behind] = 1e3
        out[..., window.shape[1] - cut.ahead :] = -1e3
        return out

    out = joined(audio, corrupt, policy)
    # The last window has nothing behind it to wait for, and reaches back further.
    np.testing.assert_allclose(out[0][:, : 2800 - cut.size], audio[:, : 2800 - cut.size], atol=1e-6)


@pytest.mark.parametrize("look_ahead", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("seed", range(3))
def test_sources_of_equal_prompts_keep_their_order(seed, look_ahead):
    audio = signal(2, 6000, seed)
    run, seen = shuffling(np.random.default_rng(seed))
    out = joined(audio, run, SegmentPolicy(0.5, 0.4, look_ahead=look_ahead), groups=((1, 2, 3),))
    tracks = np.stack([audio, np.abs(audio), -np.square(audio), np.sign(audio)])
    assert len(set(seen)) > 1
    np.testing.assert_allclose(out, tracks[list(seen[0])], atol=1e-5)


def test_order_is_found_behind_silence_at_the_seams():
    """Without look-ahead little is shared behind a seam: what lies before it counts too."""
    audio = signal(1, 3000)
    audio[:, np.arange(3000) % 100 < 30] = 0  # all cross-fades
    run, seen = shuffling(np.random.default_rng(3))
    out = joined(audio, run, SegmentPolicy(0.5, 0.4, look_ahead=0.0), groups=((1, 2, 3),))
    tracks = np.stack([audio, np.abs(audio), -np.square(audio), np.sign(audio)])
    np.testing.assert_allclose(out, tracks[list(seen[0])], atol=1e-5)


@settings(max_examples=50, deadline=None)
@given(policy=live_policies(), at=st.integers(0, 1500), stitch=st.sampled_from(["live", "fade"]))
def test_a_loaded_state_goes_on(policy, at, stitch):
    if stitch == "fade":
        policy = SegmentPolicy(policy.segment, policy.overlap)
    audio = signal(2, 1500)
    first, second = FadeStitcher(whole, RATE, policy), FadeStitcher(whole, RATE, policy)
    parts = first.push(audio[:, :at])
    second.load(first.state)
    for stitcher in (first, second):
        out = np.concatenate([*parts, *stitcher.push(audio[:, at:]), *stitcher.flush()], -1)
        np.testing.assert_array_equal(out, joined(audio, whole, policy))
        assert stitcher.state == StitchState()


@pytest.mark.parametrize(
    ("overlap", "look_ahead"), [(2.0, -0.1), (2.0, 1.95), (0.0, 0.1), (2.0, float("nan")), (2.0, float("inf"))]
)
def test_look_ahead_that_does_not_fit(overlap, look_ahead):
    with pytest.raises(InputError, match="need a look_ahead from 0 s to what the overlap of"):
        SegmentPolicy(6, overlap, look_ahead=look_ahead)


def test_look_ahead_is_not_for_published_stitching():
    with pytest.raises(InputError, match="look_ahead is for stitch 'fade'"):
        default_policy(6.0, None, None, "published", 0.5)


@settings(max_examples=100)
@given(policy=live_policies())
def test_a_shorter_policy_can_always_be_had(policy):
    for _ in range(10):
        shorter = policy.shorter()
        assert shorter.segment == policy.segment / 2 and 0 <= shorter.look_ahead <= policy.look_ahead
        policy = shorter


def test_a_shorter_policy_keeps_the_latency_if_it_can():
    assert SegmentPolicy(6, 2, look_ahead=0.5).shorter() == SegmentPolicy(3, 1.5, look_ahead=0.5)
    assert SegmentPolicy(6, 2, look_ahead=1.75).shorter() == SegmentPolicy(3, 1.5, look_ahead=1.4)


@given(latency=st.floats(0.1, 6), trained=st.floats(1, 10))
def test_a_policy_for_a_latency(latency, trained):
    policy = live_policy(trained, latency)
    assert policy.segment == default_policy(trained, None, None, "fade").segment
    advance = policy.segment - policy.overlap
    assert advance == pytest.approx(latency / 2) and advance + policy.fade + policy.look_ahead == pytest.approx(latency)
    assert abs(FadeStitcher(whole, 32000, policy).latency - 32000 * latency) <= 2


@pytest.mark.parametrize("latency", [0, -1, 0.05, 6.1, float("nan"), float("inf")])
def test_latencies_that_cannot_be_had(latency):
    says = r"need a latency from 0\.1 s \(for less, use a causal model\) to the window of 6 s"
    with pytest.raises(InputError, match=says):
        live_policy(4.0, latency)
    with pytest.raises(InputError, match="need a segment above 0 s"):
        live_policy(4.0, 1.0, segment=0.0)


def test_separator_uses_the_windows(monkeypatch, tmp_path):
    windows = {"segment": 0.4, "overlap": 0.3, "look_ahead": 0.1}
    separator = Separator.from_model(tiny_model(), ("speech", "sfx"), device="cpu", **windows)
    sizes, real = [], separator.engine.run
    monkeypatch.setattr(separator.engine, "run", lambda x, *rest: sizes.append(x.shape[1]) or real(x, *rest))
    audio = noise(2, 6000)
    out = separator.separate(audio, MODEL_RATE).stems
    assert sizes == [1800, 2600, *[3200] * 5] and all(a <= b for a, b in pairwise(sizes))
    soundfile.write(tmp_path / "in.wav", audio.T, MODEL_RATE, subtype="FLOAT")
    for stem, path in zip(out, separator.separate_file(tmp_path / "in.wav", tmp_path / "out"), strict=True):
        np.testing.assert_allclose(soundfile.read(path, dtype="float32")[0].T, stem, atol=1e-6)


def test_the_command_line_takes_a_look_ahead(tmp_path, capsys):
    windows, model = {"segment": 0.4, "overlap": 0.3, "look_ahead": 0.1}, str(tiny_directory(tmp_path))
    soundfile.write(tmp_path / "in.wav", noise(1, 5000).T, MODEL_RATE, subtype="FLOAT")
    options = [f"--{name.replace('_', '-')}={value}" for name, value in windows.items()]
    command = ["separate", str(tmp_path / "in.wav"), "-m", model, "-p", "speech", "-o", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as exit:
        main([*command, *options])
    assert not exit.value.code
    expected = Separator(model, "speech", **windows).separate(tmp_path / "in.wav")["speech"]
    plain = Separator(model, "speech", segment=0.4, overlap=0.3).separate(tmp_path / "in.wav")["speech"]
    got = soundfile.read(tmp_path / "out/in/speech.wav", dtype="float32", always_2d=True)[0].T
    np.testing.assert_allclose(got, expected, atol=1e-6)
    assert np.abs(got - plain).max() > 1e-5
    with pytest.raises(SystemExit, match="2"):
        main([*command, *options, "--stitch=published"])
    assert "look_ahead is for stitch 'fade'" in capsys.readouterr().err
