"""Recordings of many channels: no more is computed at once than of stereo, and the result is that of each alone."""

import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, SHORT, TUSS, noise, tiny_model

from ussfast import Separator, stft
from ussfast.long_audio import pipeline

CONFIGS = {"causal": CAUSAL, "tuss": TUSS}
SECONDS = 1.1


def made(name, prompts=("speech", "sfx"), **settings):
    return Separator.from_model(tiny_model(CONFIGS[name]), prompts, device="cpu", dtype="float32", **SHORT, **settings)


def watched(separator, monkeypatch):
    """Numbers that the network is given at once: of samples, or of bins."""
    model, sizes = separator.engine.model, []
    name = "advance" if separator.engine.causal else "separate"
    real = getattr(model, name)

    def watch(audio, *rest):
        sizes.append(audio.numel())
        return real(audio, *rest)

    monkeypatch.setattr(model, name, watch)
    return sizes


def spread(monkeypatch):
    """Rows that are transformed back at once."""
    real, rows = stft.synthesize, []

    def watch(estimate, *rest, **more):
        rows.append(len(estimate))
        return real(estimate, *rest, **more)

    monkeypatch.setattr(stft, "synthesize", watch)
    return rows


def alike(name, one, other):
    """Sums of the causal model are rounded otherwise when another number of frames is computed together."""
    np.testing.assert_allclose(one, other, rtol=0, atol=5e-7 if name == "causal" else 0)


@pytest.mark.parametrize("settings", [{}, {"batch": 2}, {"max_attenuation": 20.0}], ids=str)
@pytest.mark.parametrize("rate", [RATE, 11025])
@pytest.mark.parametrize("name", CONFIGS)
def test_as_much_at_once_as_of_stereo(name, rate, settings, monkeypatch):
    separator, audio = made(name, **settings), noise(7, round(SECONDS * rate))
    audio[3] = 0
    sizes = watched(separator, monkeypatch)
    separator.separate(audio[:2], rate)
    stereo = max(sizes)
    sizes.clear()
    out = separator.separate(audio, rate).stems
    assert sizes and max(sizes) <= stereo * settings.get("batch", 1)
    for channel in range(7):
        alike(name, out[:, channel], separator.separate(audio[channel], rate).stems[:, 0])
    assert not out[:, 3].any() or "max_attenuation" in settings


@pytest.mark.parametrize("prompts", [("speech", "sfx"), ("sfx", "sfx")], ids=str)
@pytest.mark.parametrize("channels", ["independent", "linked"])
@pytest.mark.parametrize("name", CONFIGS)
def test_files_are_like_arrays(name, channels, prompts, tmp_path, monkeypatch):
    """Also where channels have something in common."""
    monkeypatch.setattr(pipeline, "_FRAMES", 3000)
    separator, audio = made(name, prompts, channels=channels), noise(6, round(SECONDS * RATE))
    audio[2] = 0
    rows, sizes = spread(monkeypatch), watched(separator, monkeypatch)
    separator.separate(audio[:2], RATE)
    stereo = max(sizes)
    sizes.clear()
    out = separator.separate(audio, RATE).stems
    if channels == "independent" or name == "causal":
        assert max(sizes) <= stereo
    assert name == "causal" or max(rows) <= 2
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, "FLOAT")
    sizes.clear()
    written = separator.separate_file(tmp_path / "in.wav", tmp_path)
    if channels == "independent" or name == "causal":
        assert max(sizes) <= stereo
    for path, stem in zip(written, out, strict=True):
        alike(name, soundfile.read(path, dtype="float32")[0].T, stem)


def test_linked_channels_are_transformed_back_a_few_at_a_time(monkeypatch):
    separator, audio = made("tuss", channels="linked"), noise(5, 3000)
    whole = separator.separate(audio, RATE).stems
    rows = spread(monkeypatch)
    monkeypatch.setattr("ussfast.models._base.TOGETHER", 5)
    np.testing.assert_array_equal(separator.separate(audio, RATE).stems, whole)
    assert rows == [5]


def test_blocks_of_files_are_shorter_the_more_channels_there_are():
    blocks = [np.zeros((2, channels, 1 << 17), np.float32) for channels in (1, 2, 16, 1000)]
    longest = [max(part.shape[-1] for part in pipeline._pieces([block])) for block in blocks]
    assert longest == [1 << 16, 1 << 16, 1 << 13, 1 << 10]
