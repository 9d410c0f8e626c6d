"""Sessions on a causal model: what comes out is what the whole recording gives, however it was cut."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pieces import close, cut, joined
from tiny import CAUSAL, PROMPTS, RATE, noise, tiny_model

from ussfast import Separator
from ussfast.errors import AudioError, InputError, PromptError
from ussfast.stft import StftConfig

HOP = CAUSAL.stft.hop
# float32: streams of dtype "auto" may multiply bfloat16, and files do not.
SEPARATOR = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")
RATES = (8000, 11025, 16000, 22050, 32000, 44100, 48000)


sizes = st.lists(st.sampled_from((0, 1, 2, 3, 17, 63, 64, 65, 127, 257, 1009, 3001)), max_size=12)


@given(
    sizes=sizes,
    samples=st.integers(1, 6000),
    rate=st.sampled_from(RATES),
    channels=st.integers(1, 2),
    prompts=st.lists(st.sampled_from(PROMPTS), min_size=1, max_size=4),
)
@settings(max_examples=25, deadline=None)
def test_a_stream_equals_the_whole(sizes, samples, rate, channels, prompts):
    audio = noise(channels, samples)
    whole = SEPARATOR.separate(audio, rate, prompts=prompts)
    session = SEPARATOR.session(rate, prompts=prompts)
    pieces = [*map(session.push, cut(audio, sizes)), session.flush()]
    stems, mixture = joined(pieces)
    assert all(piece.labels == whole.labels for piece in pieces)
    np.testing.assert_array_equal(mixture, audio)
    close(stems, whole.stems)


@pytest.mark.parametrize("rate", [RATE, 2 * RATE])
def test_chunks_and_pieces_are_the_callers(rate):
    """Whoever records may use the same buffer again, and pieces stay what they are."""
    audio, session, buffer = noise(1, 20 * HOP + 7), SEPARATOR.session(rate, channels=1), np.zeros((1, 100), np.float32)
    pieces, as_they_came = [], []
    for at in range(0, audio.shape[1], 100):
        block = buffer[:, : min(100, audio.shape[1] - at)]
        block[:] = audio[:, at : at + 100]
        pieces.append(session.push(block).stems)
        as_they_came.append(pieces[-1].copy())
        buffer[:] = 9
    rest = session.flush().stems
    np.testing.assert_array_equal(np.concatenate(pieces, -1), np.concatenate(as_they_came, -1))
    want = SEPARATOR.session(rate, channels=1)
    got = np.concatenate([want.push(audio).stems, want.flush().stems], -1)
    np.testing.assert_allclose(np.concatenate([*pieces, rest], -1), got, atol=1e-6)


def test_stream_yields_what_a_session_gives():
    audio = noise(2, 3000)
    pieces = list(SEPARATOR.stream(cut(audio, [0, 700, 1, 900]), 16000, prompts="sfx"))
    assert all(piece.mixture.size and piece.sample_rate == 16000 for piece in pieces)
    close(joined(pieces)[0], SEPARATOR.separate(audio, 16000, prompts="sfx").stems)
    assert list(SEPARATOR.stream([], RATE)) == []
    assert list(SEPARATOR.stream([np.zeros(0, np.float32)], RATE)) == []
    mono = joined(SEPARATOR.stream([noise(1, 500)[0]], RATE))[0]
    assert mono.shape == (2, 1, 500)


@pytest.mark.parametrize("rate", [RATE, 48000])
def test_the_stated_latency_is_the_latency(rate):
    """Sample i is out, and final, once the input up to i + latency is in; and half a hop earlier it is not."""
    session = SEPARATOR.session(rate, channels=1)
    latency = round(session.latency * rate)
    audio = noise(1, 6000 * rate // RATE)
    given = [session.push(part).mixture.shape[1] for part in np.array_split(audio, audio.shape[1], 1)]
    done = np.cumsum(given)
    pushed = np.arange(1, len(done) + 1)
    assert (pushed - done).max() <= latency
    assert (pushed - done).max() >= latency - HOP * rate // RATE // 2, "the latency is stated too high"
    assert done[-1] > 0


def test_prompts_change_without_a_gap():
    audio, at = noise(1, 6000), 2500
    plain, other = SEPARATOR.session(RATE, channels=1), SEPARATOR.session(RATE, channels=1)
    unchanged = joined([plain.push(audio[:, :at]), plain.push(audio[:, at:]), plain.flush()])[0]
    first = other.push(audio[:, :at])
    other.set_prompts(("vocals", "drums"))
    assert other.labels == ("vocals", "drums")
    second, third = other.push(audio[:, at:]), other.flush()
    assert second.labels == ("vocals", "drums", "speech")
    assert third.labels == ("vocals", "drums")
    done = first.stems.shape[2]
    np.testing.assert_array_equal(first.stems, unchanged[..., :done])
    # The hop that was half done: speech fades out, vocals fade in, drums go on.
    fade = slice(done, done + HOP)
    speech, vocals = second["speech"][0], second["vocals"][0]
    assert np.abs(speech[:HOP]).max() > 1e-3 and not speech[HOP:].any()
    assert np.abs(speech[HOP - 4 : HOP]).max() < 0.3 * np.abs(speech[:HOP]).max()
    assert np.abs(vocals[:3]).max() < 0.3 * np.abs(vocals[:HOP]).max()
    assert np.abs(unchanged[0, 0, fade] - speech[:HOP]).max() > 1e-3
    np.testing.assert_array_equal(np.concatenate([p.mixture for p in (first, second, third)], 1), audio)


def test_after_a_change_it_is_as_if_it_had_always_been_so():
    """What is remembered does not depend on the prompts: behind the cross-fade nothing differs."""
    audio, at = noise(1, 200 * HOP), 40 * HOP
    changed = SEPARATOR.session(RATE, channels=1)
    always = SEPARATOR.session(RATE, prompts=("drums", "sfx", "bass"), channels=1)
    changed.push(audio[:, :at])
    changed.set_prompts(("drums", "sfx", "bass"))
    end = joined([changed.push(audio[:, at:])])[0][:3]
    same = joined([always.push(audio)])[0][..., -end.shape[-1] :]
    close(end[..., HOP:], same[..., HOP:], 1e-5)
    assert np.abs(end - same)[..., :HOP].max() > 1e-3


@pytest.mark.parametrize("rate", [RATE, 44100])
def test_repeats_and_single_prompts_follow_one_another(rate):
    """From separate channels to shared masks and back, with labels that get numbers."""
    audio = noise(2, 3 * rate // 2)
    session = SEPARATOR.session(rate, prompts=("sfx",))
    parts = np.array_split(audio, 4, 1)
    pieces = [session.push(parts[0])]
    for part, prompts in zip(parts[1:], (("sfx", "sfx"), ("speech", "sfx"), ("sfx",)), strict=True):
        session.set_prompts(prompts)
        pieces.append(session.push(part))
    pieces.append(session.flush())
    assert [piece.labels for piece in pieces[:4]] == [
        ("sfx",), ("sfx-1", "sfx-2"), ("speech", "sfx", "sfx-2"), ("sfx", "speech")
    ]  # fmt: skip
    assert sum(piece.stems.shape[2] for piece in pieces) == audio.shape[1]
    assert all(np.isfinite(piece.stems).all() for piece in pieces)


def test_prompts_change_often():
    session = SEPARATOR.session(48000, prompts=("speech", "sfx", "drums", "bass"))
    for turn in range(6):
        session.push(noise(1, 97, turn))
        session.set_prompts(("vocals", "other", "musicbg", "sfxbg") if turn % 2 else ("speech", "sfx", "drums", "bass"))
    assert session.push(noise(1, 20000)).labels[:4] == ("vocals", "other", "musicbg", "sfxbg")
    assert len(session.push(noise(1, 2000)).labels) == 4


def test_an_enrolled_prompt_can_be_switched_in():
    separator = Separator.from_model(tiny_model(CAUSAL), ("speech",))
    session = separator.session(RATE, channels=1)
    before = session.push(noise(1, 1000))
    separator.enroll("bell", [noise(1, 3000, 3)], RATE)
    session.set_prompts(("speech", "bell"))
    after = session.push(noise(1, 3000, 1))
    assert before.labels == ("speech",) and after.labels == ("speech", "bell")
    assert after["bell"].any()


def test_reset_begins_again():
    session, audio = SEPARATOR.session(11025), noise(1, 3000)
    first = joined([session.push(audio), session.flush()])[0]
    with pytest.raises(InputError, match="reset"):
        session.push(audio)
    assert session.flush().stems.shape == (2, 1, 0)
    session.reset()
    np.testing.assert_array_equal(joined([session.push(audio), session.flush()])[0], first)


def test_bad_chunks_are_named_and_change_nothing():
    audio, rate = noise(2, 4000), 16000
    session = SEPARATOR.session(rate, on_bad="raise")
    first = session.push(audio[:, :1500])
    bad = audio[:, :100].copy()
    bad[1, 50] = np.nan
    for chunk, said in [
        (noise(1, 100), "2 channels, the chunk 1"),
        (bad, "1 samples are NaN"),
        (np.full((2, 9), np.inf), "18 samples"),
        (np.full((2, 9), 1e20), "18 samples"),
        (np.zeros((2, 3, 4)), r"\[samples\] or \[channels, samples\]"),
        (np.zeros((2, 9), complex), "not complex"),
        (np.zeros((2, 9), bool), "not bool"),
        ([0.0, 1.0], "not list"),
        ("no", "not str"),
    ]:
        with pytest.raises((InputError, AudioError), match=said):
            session.push(chunk)
    with pytest.raises(PromptError, match="unknown prompt 'speach'"):
        session.set_prompts(("speach",))
    with pytest.raises(InputError, match="max_prompts=5"):
        session.set_prompts(("speech", "sfx", "drums", "bass", "other"))
    stems, _ = joined([first, session.push(audio[:, 1500:]), session.flush()])
    close(stems, SEPARATOR.separate(audio, rate).stems)


def test_a_chunk_that_is_not_finite_is_silenced():
    audio = noise(1, 3000)
    bad = audio.copy()
    bad[0, 1200] = np.nan
    session = SEPARATOR.session(RATE)
    with pytest.warns(RuntimeWarning, match="a chunk of 500 samples was silenced: 1 of them"):
        pieces = [session.push(part) for part in np.array_split(bad, 6, 1)] + [session.flush()]
    silenced = audio.copy()
    silenced[:, 1000:1500] = 0
    stems, mixture = joined(pieces)
    close(stems, SEPARATOR.separate(silenced, RATE).stems)
    np.testing.assert_array_equal(mixture, silenced)


def test_settings_that_cannot_be():
    for settings_, said in [
        ({"on_bad": "ignore"}, "silence"),
        ({"channels": 0}, "from 1 to"),
        ({"threads": 0}, "threads"),
        ({"latency": 0.5}, "not causal"),
        ({"sample_rate": 0}, "whole number"),
        ({"prompts": "speach"}, "unknown prompt"),
        ({"prompts": ()}, "no prompts given"),
    ]:
        with pytest.raises(InputError, match=said):
            SEPARATOR.session(**{"sample_rate": RATE} | settings_)
        with pytest.raises(InputError, match=said):
            SEPARATOR.stream([], **{"sample_rate": RATE} | settings_)


def test_closing():
    with SEPARATOR.session(RATE) as session:
        session.push(noise(1, 100))
    with pytest.raises(InputError, match="reset"):
        session.push(noise(1, 100))


def test_silence_stays_silent_and_integers_are_scaled():
    session = SEPARATOR.session(RATE, channels=2)
    piece = session.push(np.zeros((2, 2000), np.float32))
    assert not piece.stems.any() and piece.stems.shape[2]
    audio = (noise(1, 2000) * 32767).astype(np.int16)
    mono = SEPARATOR.session(RATE)
    close(joined([mono.push(audio), mono.flush()])[0], SEPARATOR.separate(audio, RATE).stems)


def test_torch_chunks_and_other_window_lengths():
    stft = StftConfig(n_fft=96, hop=48, window_length=96, window="hann")
    config = replace(CAUSAL, stft=stft, bands=(5, 10, 20, 14))
    separator = Separator.from_model(tiny_model(config), ("speech",), dtype="float32")
    audio = noise(1, 1000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        session = separator.session(RATE)
        stems = joined([session.push(torch.from_numpy(audio)), session.flush()])[0]
    close(stems, separator.separate(audio, RATE).stems)


def test_chunks_without_channels_are_refused_and_change_nothing():
    session = SEPARATOR.session(RATE)
    with pytest.raises(AudioError, match=r"chunk: no channels in it \(shape \[0, 100\]\)"):
        session.push(np.zeros((0, 100), np.float32))
    assert session.push(noise(2, 3000)).stems.shape[1] == 2
