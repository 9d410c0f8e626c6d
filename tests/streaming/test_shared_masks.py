"""Equal prompts share their masks over channels: one sound in all of them, whatever its gains, is heard as it is alone,
in streams as in whole recordings, and from the hop on at which equal prompts are asked for."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pieces import close, cut, joined
from tiny import CAUSAL, RATE, noise, tiny_model

from ussfast import Separator

MODEL = tiny_model(CAUSAL)
BACKENDS = {name: Separator.from_model(MODEL, dtype="float32", backend=name) for name in ("auto", "reference")}
LINKED = Separator.from_model(MODEL, dtype="float32", channels="linked")
EQUAL, HOP = ("sfx", "bass", "sfx"), CAUSAL.stft.hop
SIZES = st.lists(st.integers(0, 900), max_size=8)
GAIN = st.sampled_from([-1.0, -0.4, 0.0, 0.25, 1.0])


def first(gains):
    return next(gain for gain in gains if gain)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(gains=st.lists(GAIN, min_size=2, max_size=4).filter(any), sizes=SIZES, seed=st.integers(0, 99))
def test_one_sound_is_heard_whatever_its_gains(backend, gains, sizes, seed):
    gains, one = np.array(gains, np.float32), noise(1, 3000, seed)
    audio, ours = gains[:, None] * one, BACKENDS[backend]
    heard = np.sqrt(np.mean(np.square(gains))) * np.sign(first(gains))
    alone = ours.separate(one * heard, RATE, prompts=EQUAL).stems
    whole = ours.separate(audio, RATE, prompts=EQUAL).stems
    close(whole, alone * (gains / heard)[:, None])
    close(joined(ours.stream(cut(audio, sizes), RATE, prompts=EQUAL))[0], whole)


@settings(max_examples=15, deadline=None)
@given(channels=st.integers(2, 3), opposite=st.booleans(), sizes=SIZES, seed=st.integers(0, 99))
def test_a_stream_of_different_channels_equals_the_whole(channels, opposite, sizes, seed):
    audio, ours = noise(channels, 3000, seed), BACKENDS["auto"]
    if opposite:
        audio[1] -= 2 * audio[0]
    whole = ours.separate(audio, RATE, prompts=EQUAL).stems
    close(joined(ours.stream(cut(audio, sizes), RATE, prompts=EQUAL))[0], whole)


@pytest.mark.parametrize("backend", BACKENDS)
@settings(max_examples=15, deadline=None)
@given(gains=st.lists(GAIN, min_size=2, max_size=3).filter(any), at=st.integers(1, 30), seed=st.integers(0, 99))
def test_equal_prompts_go_on_with_what_was_heard(backend, gains, at, seed):
    """As in a stream whose channels were linked all the time, whose network heard the phase of the first channel."""
    assume(max(gains, key=abs) * first(gains) > 0)
    audio, at = np.array(gains, np.float32)[:, None] * noise(1, 3000, seed), at * HOP
    found = []
    for separator in (BACKENDS[backend], LINKED):
        session = separator.session(RATE, prompts="speech")
        session.push(audio[:, :at])
        session.set_prompts(EQUAL)
        found.append(np.concatenate([session.push(audio[:, at:]).stems[:3], session.flush().stems[:3]], -1))
    # Former stems are still those of each channel in the hop that they fade out in.
    close(found[0][..., HOP:], found[1][..., HOP:])
    assert found[1][..., HOP:].std() > 1e-4
