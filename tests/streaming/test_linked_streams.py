"""Linked channels in streams: what comes out is what the whole recording gives, in sessions and pools."""

import numpy as np
import pytest
from pieces import close, cut, joined
from tiny import CAUSAL, RATE, TUSS, noise, tiny_model

from ussfast import Separator
from ussfast.errors import InputError

CAUSAL_MODEL = tiny_model(CAUSAL)
SETTINGS = {"dtype": "float32", "channels": "linked"}
SEPARATORS = {
    "native": Separator.from_model(CAUSAL_MODEL, ("speech", "drums"), **SETTINGS),
    "reference": Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), backend="reference", **SETTINGS),
    "windows": Separator.from_model(
        tiny_model(TUSS), ("speech", "drums"), segment=0.4, overlap=0.3, look_ahead=0.1, **SETTINGS
    ),
}
SEPARATOR = SEPARATORS["native"]
SIZES = [0, 1, 64, 700, 17, 3001]


@pytest.mark.parametrize("kind", SEPARATORS)
@pytest.mark.parametrize("rate", [RATE, 44100])
@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("prompts", [("speech", "drums"), ("sfx", "sfx", "bass")])
def test_a_stream_equals_the_whole(kind, rate, channels, prompts):
    audio = noise(channels, 9000)
    stems, _ = joined(SEPARATORS[kind].stream(cut(audio, SIZES), rate, prompts=prompts))
    close(stems, SEPARATORS[kind].separate(audio, rate, prompts=prompts).stems)


@pytest.mark.parametrize("kind", SEPARATORS)
def test_opposite_phases_do_not_vanish(kind):
    one = noise(1, 9000)
    pair = np.concatenate((one, -one))
    stems, _ = joined(SEPARATORS[kind].stream(cut(pair, SIZES), RATE))
    alone, _ = joined(SEPARATORS[kind].stream(cut(one, SIZES), RATE))
    close(stems, np.concatenate((alone, -alone), 1))
    assert alone.std() > 1e-3


def test_equal_prompts_of_independent_channels_hear_opposite_phases():
    """They share their masks also where others do not."""
    separator, one = Separator.from_model(CAUSAL_MODEL, ("sfx", "sfx"), dtype="float32"), noise(1, 5000)
    pair = np.concatenate((one, -one))
    alone = separator.separate(one, RATE).stems
    close(separator.separate(pair, RATE).stems, np.concatenate((alone, -alone), 1))
    close(joined(separator.stream(cut(pair, SIZES), RATE))[0], np.concatenate((alone, -alone), 1))


@pytest.mark.parametrize("kind", ["native", "reference"])
def test_streams_of_a_pool_do_not_hear_one_another(kind):
    """Equal prompts included, and streams that come and go."""
    separator, rng = SEPARATORS[kind], np.random.default_rng(3)
    pool = separator.pool(3, 16000, channels=2, max_prompts=4)
    asked = [("speech",), ("sfx", "sfx"), ("bass", "drums", "sfx", "sfx")]
    first = pool.join(asked[0])
    early = noise(2, 900)
    pool.push({first: early})
    pool.leave(first)
    streams = [pool.join(prompts) for prompts in asked]
    audio = [noise(2, 4000, seed) for seed in range(3)]
    pieces = {stream: [] for stream in streams}
    at = dict.fromkeys(streams, 0)
    while min(at.values()) < 4000:
        some = [stream for stream in streams if rng.random() < 0.6]
        sizes = {stream: int(rng.choice([1, 63, 128, 500])) for stream in some}
        chunks = {s: audio[streams.index(s)][:, at[s] : at[s] + sizes[s]] for s in some}
        at |= {stream: at[stream] + sizes[stream] for stream in some}
        for stream, piece in pool.push(chunks).items():
            pieces[stream].append(piece)
    for stream, heard, prompts in zip(streams, audio, asked, strict=True):
        stems, mixture = joined([*pieces[stream], pool.leave(stream)])
        np.testing.assert_array_equal(mixture, heard)
        close(stems, separator.separate(heard, 16000, prompts=prompts).stems)


def test_an_independent_pool_still_refuses_equal_prompts():
    pool = Separator.from_model(CAUSAL_MODEL, ("sfx", "sfx"), dtype="float32").pool(2, RATE, channels=2)
    with pytest.raises(InputError, match="link channels, or use a session"):
        pool.join()


def test_prompts_change_to_equal_ones_and_back():
    """Masks are shared all the time: nothing that is remembered is lost."""
    audio, session = noise(2, 9000), SEPARATOR.session(RATE)
    pieces = [session.push(audio[:, :3000])]
    session.set_prompts(("sfx", "sfx"))
    pieces.append(session.push(audio[:, 3000:6000]))
    session.set_prompts(("speech", "drums"))
    pieces += [session.push(audio[:, 6000:]), session.flush()]
    after = np.concatenate([piece.stems[:2] for piece in pieces], -1)[..., 6200:]
    close(after, SEPARATOR.separate(audio, RATE).stems[..., 6200:])


@pytest.mark.parametrize("kind", SEPARATORS)
def test_a_saved_stream_goes_on(kind, tmp_path):
    audio, separator = noise(2, 8000), SEPARATORS[kind]
    session = separator.session(16000)
    session.push(audio[:, :4500])
    session.save(tmp_path / "state.safetensors")
    expected = joined([session.push(audio[:, 4500:]), session.flush()])[0]
    other = separator.session(16000)
    other.load(tmp_path / "state.safetensors")
    np.testing.assert_array_equal(joined([other.push(audio[:, 4500:]), other.flush()])[0], expected)


def test_states_of_independent_channels_do_not_fit():
    independent = Separator.from_model(CAUSAL_MODEL, ("speech", "drums"), dtype="float32").session(RATE)
    linked, audio = SEPARATOR.session(RATE), noise(2, 3000)
    independent.push(audio)
    linked.push(audio)
    with pytest.raises(InputError, match="the state is of another session"):
        linked.state = independent.state
    rest = joined([linked.push(audio), linked.flush()])[0]
    assert rest.shape[1] == 2 and rest.any()
