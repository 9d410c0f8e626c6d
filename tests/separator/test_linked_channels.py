"""Linked channels through the public engine: arrays, files, windows in batches, silence, opposite phases."""

import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, SHORT, TUSS, noise, tiny_directory, tiny_model

from ussfast import InputError, Separator
from ussfast.cli.main import main

MODELS = {"causal": tiny_model(CAUSAL), "windows": tiny_model(TUSS)}
PROMPTS = ("speech", "sfx")


def make(kind, channels="linked", **settings):
    return Separator.from_model(MODELS[kind], PROMPTS, device="cpu", channels=channels, **SHORT, **settings)


def close(a, b, tolerance=1e-4):
    np.testing.assert_allclose(a, b, atol=tolerance, rtol=0)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("gains", [(1, 1), (1, -1), (0.3, -0.9), (0, 1)])
def test_one_sound_is_the_same_in_every_channel(kind, gains):
    """Nothing vanishes where phases are opposite, and the level difference stays what it was."""
    one = noise(1, 9001)
    audio = np.array(gains, np.float32)[:, None] * one
    stems = make(kind).separate(audio, RATE).stems
    level = np.sqrt(np.mean(np.square(gains)))
    alone = make(kind).separate(one * np.float32(level), RATE).stems
    if kind == "windows" and 0 in gains:  # a silent channel is left out
        alone = make(kind).separate(one, RATE).stems * level
    close(stems, alone * (np.array(gains, np.float32) / level)[:, None])
    assert stems.std() > 1e-3


@pytest.mark.parametrize("kind", MODELS)
def test_mono_does_not_change(kind):
    audio = noise(1, 9001)
    linked, independent = (make(kind, channels).separate(audio, RATE).stems for channels in ("linked", "independent"))
    np.testing.assert_array_equal(linked, independent)


@pytest.mark.parametrize("kind", MODELS)
def test_channels_hear_each_other(kind):
    audio = noise(2, 9001)
    linked, independent = (make(kind, channels).separate(audio, RATE).stems for channels in ("linked", "independent"))
    assert np.abs(linked - independent).max() > 1e-3
    assert not make(kind).separate(np.zeros_like(audio), RATE).stems.any()


def test_windows_in_batches():
    audio = noise(3, 20000)
    close(make("windows", batch=4).separate(audio, RATE).stems, make("windows").separate(audio, RATE).stems, 1e-5)
    equal = make("windows").separate(audio, RATE, prompts=("sfx", "sfx", "speech")).stems
    assert equal.shape == (3, 3, 20000)


@pytest.mark.parametrize("kind", MODELS)
def test_files(kind, tmp_path):
    audio = noise(2, 30001)
    soundfile.write(tmp_path / "in.wav", audio.T, 16000, "FLOAT")
    paths = make(kind).separate_file(tmp_path / "in.wav", tmp_path)
    expected = make(kind).separate(audio, 16000)
    for path, stem in zip(paths, expected.stems, strict=True):
        close(soundfile.read(path, dtype="float32")[0].T, stem)


def test_other_channels_are_refused():
    with pytest.raises(InputError, match="channels must be one of linked, independent, got 'stereo'"):
        make("causal", "stereo")


@pytest.mark.parametrize("command", ["separate", "stream"])
def test_the_command_line(command, tmp_path, capsys):
    model, audio = str(tiny_directory(tmp_path, CAUSAL)), noise(2, 5000)
    soundfile.write(tmp_path / "in.wav", audio.T, RATE, "FLOAT")
    own = ["--channels", "linked", "--template", "{label}.wav"]
    if command == "stream":
        own = ["--stereo", "linked", "--fast", "--dtype", "float32"]
    with pytest.raises(SystemExit) as exit:
        main([command, str(tmp_path / "in.wav"), "-m", model, "-p", "speech", "-o", str(tmp_path / "out"), *own])
    assert not exit.value.code, capsys.readouterr().err
    found = soundfile.read(next((tmp_path / "out").rglob("speech.wav")), dtype="float32")[0].T
    close(found, Separator(model, "speech", channels="linked").separate(audio, RATE).stems[0])
    assert np.abs(found - Separator(model, "speech").separate(audio, RATE).stems[0]).max() > 1e-3
