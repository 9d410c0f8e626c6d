"""Shares of the mixture in streams: the same as for files, and without a jump while prompts change."""

import numpy as np
import pytest
from pieces import close, cut, joined
from tiny import CAUSAL, RATE, TUSS, noise, tiny_model

from ussfast import Separator

MODELS = {"causal": tiny_model(CAUSAL), "windows": tiny_model(TUSS)}
WINDOWS = {"segment": 0.4, "overlap": 0.3, "look_ahead": 0.1}


def make(kind="causal", **settings):
    return Separator.from_model(MODELS[kind], ("speech", "drums"), dtype="float32", **WINDOWS, **settings)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rate", [RATE, 44100])
@pytest.mark.parametrize("settings", [{"sum_to_mixture": True}, {"max_attenuation": 10}])
def test_a_stream_equals_the_whole(kind, rate, settings):
    audio, separator = noise(2, 12000), make(kind, **settings)
    stems, mixture = joined(separator.stream(cut(audio, [0, 1, 700, 64, 3001]), rate))
    close(stems, separator.separate(audio, rate).stems)
    np.testing.assert_array_equal(mixture, audio)
    if "sum_to_mixture" in settings:
        close(stems.sum(0), audio, 1e-6)


def test_a_pool_equals_sessions():
    audio, separator = noise(1, 3000), make(sum_to_mixture=True, max_attenuation=20)
    pool = separator.pool(2, RATE)
    stream = pool.join(("speech", "sfx", "bass"))
    stems, _ = joined([pool.push({stream: audio[:, :999]})[stream], pool.push({stream: audio[:, 999:]})[stream]])
    close(stems.sum(0), audio[:, : stems.shape[-1]], 1e-6)
    close(stems, separator.separate(audio, RATE, prompts=("speech", "sfx", "bass")).stems[..., : stems.shape[-1]])


CHANGES = [("speech", "bass"), ("sfx",), ("speech", "drums", "sfx", "bass"), ("bass", "speech")]


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize("step", [37, 500, 5000])
def test_the_sum_holds_while_prompts_change(kind, rate, step):
    """Also when they change again before the last change is over."""
    audio = noise(1, 6 * step + 8000)
    session = make(kind, sum_to_mixture=True, max_attenuation=12).session(rate, max_prompts=4)
    pieces = [session.push(audio[:, :4000])]
    for number, prompts in enumerate(CHANGES):
        session.set_prompts(prompts)
        at = 4000 + number * step
        pieces.append(session.push(audio[:, at : at + step]))
    pieces += [session.push(audio[:, 4000 + len(CHANGES) * step :]), session.flush()]
    for piece in pieces:
        close(piece.stems.sum(0), piece.mixture, 1e-6)
    assert sum(piece.mixture.shape[1] for piece in pieces) == audio.shape[1]
    assert pieces[-1].labels[:2] == ("bass", "speech")


@pytest.mark.parametrize("settings", [{"sum_to_mixture": True}, {"max_attenuation": 6}])
def test_shares_do_not_jump(settings):
    """A constant input: what a step would be is plain to see, in every stem that there ever was."""
    audio = np.full((1, 6000), 0.5, np.float32)
    tracks = {name: np.zeros(6000, np.float32) for name in ("speech", "drums", "sfx", "bass")}
    shares = {name: track.copy() for name, track in tracks.items()}
    for kept, session in ((shares, make(**settings).session(RATE)), (tracks, make().session(RATE))):
        done = 0
        for at, prompts in ((2000, ("speech", "sfx", "bass")), (4000, ("bass",)), (6000, None)):
            for begin in range(at - 2000, at, 50):
                piece = session.push(audio[:, begin : begin + 50])
                end = done + piece.mixture.shape[1]
                for label, stem in zip(piece.labels, piece.stems, strict=True):
                    kept[label][done:end] = stem[0]
                done = end
            if prompts:
                session.set_prompts(prompts)
    # A step would be at least a twelfth of the input: the share of one in four is another than that of one in three.
    for name in tracks:
        added = shares[name] - tracks[name]
        changes = np.abs(np.diff(added))
        assert changes[1500:5000].max() < 0.5 / 12, name
    assert np.ptp(shares["drums"] - tracks["drums"]) > 0.5 / 12


def test_a_saved_stream_goes_on(tmp_path):
    audio, separator = noise(2, 6000), make(sum_to_mixture=True, max_attenuation=20)
    session = separator.session(16000)
    session.push(audio[:, :2500])
    session.save(tmp_path / "state.safetensors")
    expected = joined([session.push(audio[:, 2500:]), session.flush()])[0]
    other = separator.session(16000)
    other.load(tmp_path / "state.safetensors")
    actual = joined([other.push(audio[:, 2500:]), other.flush()])[0]
    np.testing.assert_array_equal(actual, expected)
