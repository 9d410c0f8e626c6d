"""Models that separate two channels together, through the public engine: stereo, mono, silence, files, windows."""

import numpy as np
import pytest
import soundfile
import torch
from tiny import RATE, SHORT, STEREO, noise, tiny_directory, tiny_model

from ussfast import InputError, Separator
from ussfast.cli.main import main


@pytest.fixture(scope="module")
def stereo():
    return Separator.from_model(tiny_model(STEREO), device="cpu", **SHORT)


@pytest.fixture(scope="module")
def one_window():
    return Separator.from_model(tiny_model(STEREO), device="cpu")


def test_stereo_is_one_item(one_window):
    audio = noise(2, 5000)
    out = one_window.separate(audio, RATE)
    assert out.labels == ("source-1", "source-2", "source-3") and out.stems.shape == (3, 2, 5000)
    with torch.inference_mode():
        alone = one_window.engine.model.separate(torch.from_numpy(audio)[None], None)[0]
    np.testing.assert_array_equal(out.stems, alone.numpy())
    # The channels hear each other.
    changed = one_window.separate(np.stack([audio[0], audio[0]]), RATE).stems
    assert np.abs(changed[:, 0] - out.stems[:, 0]).max() > 1e-4


def test_mono_is_the_mean_of_two_equal_channels(one_window):
    audio = noise(1, 5000)
    out = one_window.separate(audio, RATE)
    assert out.stems.shape == (3, 1, 5000)
    both = one_window.separate(np.repeat(audio, 2, 0), RATE).stems
    np.testing.assert_allclose(out.stems[:, 0], both.mean(1), atol=1e-6)
    np.testing.assert_array_equal(one_window.separate(audio[0], RATE).stems, out.stems)


@pytest.mark.parametrize("channels", [3, 6])
def test_other_numbers_of_channels_are_refused(stereo, tmp_path, channels):
    says = f"separates 2 channels together: give it audio of 2 channels or of 1, not of {channels}"
    for audio in (noise(channels, 900), np.zeros((channels, 900), np.float32)):
        with pytest.raises(InputError, match=says):
            stereo.separate(audio, RATE)
        soundfile.write(tmp_path / "in.wav", audio.T, RATE)
        with pytest.raises(InputError, match=says):
            stereo.separate_file(tmp_path / "in.wav", tmp_path / "out")
    with pytest.raises(InputError, match=says):
        stereo.engine.run(noise(channels, 900), None, 3, ())
    assert not (tmp_path / "out").exists()


def test_silence(stereo):
    for channels in (1, 2):
        assert not stereo.separate(np.zeros((channels, 9000)), RATE).stems.any()
    half = noise(2, 5000)
    half[1] = 0  # not silent as a whole
    out = stereo.separate(half, RATE).stems
    assert np.isfinite(out).all() and out[:, 0].any()


@pytest.mark.parametrize("rate", [8000, 44100])
@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize("samples", [1, 2, 30011])
def test_files(stereo, tmp_path, rate, channels, samples):
    audio = noise(channels, samples)
    soundfile.write(tmp_path / "in.wav", audio.T, rate, subtype="FLOAT")
    out = stereo.separate(tmp_path / "in.wav")
    assert out.stems.shape == (3, channels, samples)
    written = stereo.separate_file(tmp_path / "in.wav", tmp_path / "out", residual=True)
    for path, stem in zip(written, [*out.stems, out.residual], strict=True):
        found, found_rate = soundfile.read(path, dtype="float32", always_2d=True)
        assert found_rate == rate
        np.testing.assert_allclose(found.T, stem, atol=1e-5)


def test_sources_without_names_keep_their_order_across_windows(stereo, monkeypatch):
    """Both channels of a source change places together."""
    calls = []

    def separate(audio, prompts, autocast):
        calls.append(audio.shape)
        tracks = torch.stack([audio, audio.abs(), audio.square()], 1)
        return tracks.roll(len(calls), 1)

    monkeypatch.setattr(stereo.engine.model, "separate", separate)
    audio = noise(2, 20000)
    out = stereo.separate(audio, RATE).stems
    assert len(calls) > 3 and set(calls) == {(1, 2, 3200)}
    expected = np.roll(np.stack([audio, np.abs(audio), audio**2]), 1, 0)
    np.testing.assert_allclose(out, expected, atol=1e-6)


def test_command_line(tmp_path, capsys):
    directory = tiny_directory(tmp_path, STEREO)
    soundfile.write(tmp_path / "in.wav", noise(2, 4000).T, RATE)
    with pytest.raises(SystemExit) as ended:
        main(["separate", str(tmp_path / "in.wav"), "-m", str(directory), "-o", str(tmp_path / "out")])
    assert ended.value.code == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert soundfile.info(tmp_path / "out" / "in" / "source-2.wav").channels == 2
