"""Limits of attenuation and stems that add up, through arrays, files and the command line."""

import numpy as np
import pytest
import soundfile
from tiny import CAUSAL, RATE, SHORT, TUSS, noise, tiny_directory, tiny_model

from ussfast import InputError, Separator
from ussfast.cli.main import main

MODELS = {"causal": tiny_model(CAUSAL), "windows": tiny_model(TUSS)}
PROMPTS = ("speech", "sfx")


def make(kind, **settings):
    return Separator.from_model(MODELS[kind], PROMPTS, device="cpu", **SHORT, **settings)


def load(path):
    return soundfile.read(path, dtype="float32", always_2d=True)[0].T


def db(signal, relative_to):
    return 20 * np.log10(np.sqrt(np.mean(np.square(signal, dtype=np.float64))) / np.std(relative_to) + 1e-12)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rate", [RATE, 11025, 44100])
def test_stems_add_up_to_the_input(kind, rate, tmp_path):
    audio = noise(2, 9001)
    plain, out = make(kind).separate(audio, rate), make(kind, sum_to_mixture=True).separate(audio, rate)
    assert db(out.residual, audio) < -130 < -60 < db(plain.residual, audio)
    np.testing.assert_allclose(out.stems - plain.stems, np.stack([plain.residual / 2] * 2), atol=1e-6)
    soundfile.write(tmp_path / "in.wav", audio.T, rate, "FLOAT")
    paths = make(kind, sum_to_mixture=True).separate_file(tmp_path / "in.wav", tmp_path, residual=True)
    written = [load(path) for path in paths]
    assert db(sum(written[:2]) - audio, audio) < -130
    assert db(written[2], audio) < -130


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("rate", [RATE, 44100])
def test_nothing_is_pushed_further_down(kind, rate, tmp_path):
    audio = noise(2, 9001)
    plain, out = make(kind).separate(audio, rate), make(kind, max_attenuation=12).separate(audio, rate)
    share = 10 ** (-12 / 20)
    np.testing.assert_allclose(out.stems, plain.stems + share * (audio - plain.stems), atol=1e-6)
    soundfile.write(tmp_path / "in.wav", audio.T, rate, "FLOAT")
    paths = make(kind, max_attenuation=12).separate_file(tmp_path / "in.wav", tmp_path, residual=True)
    for path, expected in zip(paths, [*out.stems, out.residual], strict=True):
        np.testing.assert_allclose(load(path), expected, atol=1e-4)


def test_a_long_file_of_many_blocks_is_aligned(tmp_path):
    separator = make("causal", sum_to_mixture=True, max_attenuation=20)
    audio = noise(1, 250_000)
    soundfile.write(tmp_path / "in.wav", audio.T, 16000, "FLOAT")
    paths = separator.separate_file(tmp_path / "in.wav", tmp_path)
    assert db(sum(map(load, paths)) - audio, audio) < -130
    np.testing.assert_allclose(np.stack([load(p) for p in paths]), separator.separate(audio, 16000).stems, atol=1e-4)


@pytest.mark.parametrize("settings", [{"sum_to_mixture": True}, {"max_attenuation": 12}])
def test_stems_that_are_not_written_count_as_well(settings, tmp_path):
    separator, audio = make("causal", **settings), noise(1, 9001)
    soundfile.write(tmp_path / "in.wav", audio.T, 16000, "FLOAT")
    (path,) = separator.separate_file(tmp_path / "in.wav", tmp_path, stems=["sfx"])
    np.testing.assert_allclose(load(path), separator.separate(audio, 16000)["sfx"], atol=1e-4)


@pytest.mark.parametrize("limit", [-1, float("nan"), float("inf")])
def test_limits_that_cannot_be(limit):
    with pytest.raises(InputError, match="max_attenuation must be a number from 0 dB"):
        make("causal", max_attenuation=limit)


def test_the_command_line(tmp_path, capsys):
    model, audio = str(tiny_directory(tmp_path, CAUSAL)), noise(1, 5000)
    soundfile.write(tmp_path / "in.wav", audio.T, 44100, "FLOAT")
    shared = ["-m", model, "-p", "speech", "-p", "sfx", "--sum-to-mixture", "--max-attenuation", "20"]
    expected = Separator(model, PROMPTS, sum_to_mixture=True, max_attenuation=20).separate(tmp_path / "in.wav")
    for name in ("separate", "stream"):
        out = tmp_path / name
        fast = ["--fast", "--dtype", "float32"] if name == "stream" else ["--template", "{label}.wav"]
        with pytest.raises(SystemExit) as exit:
            main([name, str(tmp_path / "in.wav"), "-o", str(out), *shared, *fast])
        assert not exit.value.code, capsys.readouterr().err
        found = [load(next(out.rglob(f"{label}.wav"))) for label in PROMPTS]
        np.testing.assert_allclose(np.stack(found), expected.stems, atol=1e-4)
        assert db(sum(found) - audio, audio) < -130
