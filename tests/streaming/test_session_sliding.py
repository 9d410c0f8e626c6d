"""Sessions on models that are not causal: the windows of files, live."""

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import RATE, STEREO, TUSS, UNCONDITIONAL, noise, tiny_model

from ussfast import Separator
from ussfast.errors import InputError

WINDOWS = {"segment": 0.4, "overlap": 0.3}
SEPARATORS = {
    "as for files": Separator.from_model(tiny_model(TUSS), ("speech", "sfx", "sfx"), **WINDOWS),
    "look-ahead": Separator.from_model(tiny_model(TUSS), ("speech", "sfx", "sfx"), look_ahead=0.1, **WINDOWS),
    "unconditional": Separator.from_model(tiny_model(UNCONDITIONAL), look_ahead=0.05, **WINDOWS),
    "stereo": Separator.from_model(tiny_model(STEREO), look_ahead=0.05, **WINDOWS),
}


def joined(pieces):
    return np.concatenate([piece.stems for piece in pieces], -1)


@pytest.mark.parametrize("name", SEPARATORS)
@given(
    sizes=st.lists(st.sampled_from((0, 1, 63, 400, 1009, 3001)), max_size=8),
    samples=st.integers(1, 12000),
    rate=st.sampled_from((RATE, 12000)),
    channels=st.integers(1, 2),
)
@settings(max_examples=8, deadline=None)
def test_a_stream_equals_the_file(name, sizes, samples, rate, channels):
    separator, audio = SEPARATORS[name], noise(channels, samples)
    session, at, pieces = separator.session(rate), 0, []
    for size in sizes:
        pieces.append(session.push(audio[:, at : at + size]))
        at += size
    pieces += [session.push(audio[:, at:]), session.flush()]
    whole = separator.separate(audio, rate)
    assert pieces[0].labels == whole.labels
    stems = joined(pieces)
    assert stems.shape == whole.stems.shape
    assert np.abs(stems - whole.stems).max() <= 1e-4


def test_a_stream_equals_separate_file(tmp_path):
    audio = noise(1, 9000)
    soundfile.write(tmp_path / "mix.wav", audio.T, RATE, "FLOAT")
    separator = SEPARATORS["look-ahead"]
    paths = separator.separate_file(tmp_path / "mix.wav", tmp_path)
    stems = joined(separator.stream(np.array_split(audio, 7, 1), RATE))
    for stem, path in zip(stems, paths, strict=True):
        np.testing.assert_allclose(stem[0], soundfile.read(path, dtype="float32")[0], atol=1e-4)


@pytest.mark.parametrize("rate", [RATE, 16000])
def test_a_wanted_latency_is_kept(rate):
    session = SEPARATORS["as for files"].session(rate, channels=1, latency=0.2)
    # The filters between 8 and 16 kHz look ahead by 12 ms each.
    assert session.latency == pytest.approx(0.2 if rate == RATE else 0.224, abs=1e-3)
    audio = noise(1, rate)
    done = np.cumsum([session.push(part).mixture.shape[1] for part in np.array_split(audio, 1000, 1)])
    pushed = np.cumsum([part.shape[1] for part in np.array_split(audio, 1000, 1)])
    assert (pushed - done).max() <= round(session.latency * rate)
    assert SEPARATORS["as for files"].session(RATE).latency == pytest.approx(0.4)


def test_prompts_change_at_the_next_window():
    separator, audio, at = SEPARATORS["look-ahead"], noise(1, 12000), 5000
    plain, other = separator.session(RATE, channels=1), separator.session(RATE, channels=1)
    unchanged = joined([plain.push(audio[:, :at]), plain.push(audio[:, at:]), plain.flush()])
    first = other.push(audio[:, :at])
    other.set_prompts(("bass", "sfx"))
    second, third = other.push(audio[:, at:]), other.flush()
    assert second.labels == ("bass", "sfx", "speech", "sfx-2") and third.labels == ("bass", "sfx")
    done = first.stems.shape[2]
    np.testing.assert_array_equal(first.stems, unchanged[..., :done])
    fade = round(separator.policy.fade * RATE)
    speech = second["speech"][0]
    assert speech[:fade].any() and not speech[fade:].any()
    np.testing.assert_allclose(speech[0], unchanged[0, 0, done], atol=1e-3)
    always = joined(separator.stream([audio], RATE, prompts=("bass", "sfx")))
    np.testing.assert_allclose(joined([third]), always[..., -third.stems.shape[2] :], atol=1e-4)


@pytest.mark.parametrize("name", ["as for files", "unconditional"])
def test_a_restored_stream_continues_bit_for_bit(name, tmp_path):
    separator, audio = SEPARATORS[name], noise(1, 12000)
    session = separator.session(12000)
    session.push(audio[:, :7001])
    session.save(tmp_path / "state.safetensors")
    other = separator.session(12000)
    other.load(tmp_path / "state.safetensors")
    expected = joined([session.push(audio[:, 7001:]), session.flush()])
    actual = joined([other.push(audio[:, 7001:8000]), other.push(audio[:, 8000:]), other.flush()])
    np.testing.assert_array_equal(actual, expected)


def test_what_cannot_be():
    separator = SEPARATORS["as for files"]
    for settings_, said in [({"latency": 0.01}, "need a latency"), ({"latency": 9.0}, "need a latency")]:
        with pytest.raises(InputError, match=said):
            separator.session(RATE, **settings_)
    with pytest.raises(InputError, match="stitch 'fade'"):
        Separator.from_model(tiny_model(TUSS), ("speech",), stitch="published").session(RATE)
    with pytest.raises(InputError, match="2 channels or of 1, not of 3"):
        SEPARATORS["stereo"].session(RATE, channels=3)
    with pytest.raises(InputError, match="takes no prompts"):
        SEPARATORS["unconditional"].session(RATE).set_prompts("speech")
    wide = Separator.from_model(tiny_model(TUSS), ("speech", "sfx", "sfx"), look_ahead=0.1, segment=0.5, overlap=0.3)
    with pytest.raises(InputError, match="windows"):
        wide.session(RATE).state = SEPARATORS["look-ahead"].session(RATE).state
