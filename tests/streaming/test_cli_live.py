"""`ussfast stream` with a real session of a tiny causal model."""

import sys

import fake_sounddevice
import numpy as np
import pytest
import soundfile
from replaced_stdio import replace
from test_pcm import Dribble
from tiny import CAUSAL, RATE, noise, tiny_directory

from ussfast.cli.main import main

PROMPTS = ("speech", "sfx")
OPTIONS = ("-p", "speech", "-p", "sfx", "--device", "cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(tiny_directory(tmp_path_factory.mktemp("models"), CAUSAL))


@pytest.fixture
def run(model, monkeypatch, capsys):
    """Exit code, bytes on standard output, error text."""

    def run(*arguments, data=b""):
        with monkeypatch.context() as patch:
            out = replace(patch, data)
            with pytest.raises(SystemExit) as exit:
                main(["stream", *map(str, arguments), *OPTIONS, "-m", model])
            sys.stdout.flush()
            return exit.value.code or 0, out.getvalue(), capsys.readouterr().err

    return run


def separated(model, audio, rate):
    """The stems [labels, channels, samples] that one push and the rest give."""
    from ussfast.separator import Separator

    session = Separator(model, PROMPTS, device="cpu").session(rate, channels=len(audio))
    return np.concatenate([session.push(audio).stems, session.flush().stems], -1)


def raw(audio):
    return np.ascontiguousarray(audio.T, "<f4").tobytes()


@pytest.mark.parametrize("rate, channels", [(RATE, 1), (11_025, 2)])
@pytest.mark.parametrize("sizes", [[1 << 20], [7, 1001, 4, 350]])
def test_all_stems_whatever_the_reads(run, model, rate, channels, sizes):
    audio = noise(channels, 5000)
    options = ("--rate", rate, "--channels", channels, "--format", "f32le", "--all")
    code, out, err = run(*options, data=Dribble(raw(audio), sizes))
    assert (code, err) == (0, "")
    expected = separated(model, audio, rate).reshape(2 * channels, -1)
    got = np.frombuffer(out, "<f4").reshape(-1, 2 * channels).T
    assert got.shape == (2 * channels, 5000)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_stems_of_a_file_and_the_residual_sum_to_it(run, tmp_path):
    audio = noise(2, 9000)
    soundfile.write(tmp_path / "a.wav", audio.T, 16_000, subtype="FLOAT")
    code, out, err = run(tmp_path / "a.wav", "--fast", "-o", tmp_path / "out", "--residual")
    assert (code, err) == (0, "") and len(out.splitlines()) == 3
    tracks = [soundfile.read(tmp_path / f"out/{name}.wav", dtype="float32")[0] for name in (*PROMPTS, "residual")]
    np.testing.assert_allclose(sum(tracks), audio.T, atol=1e-5)
    assert np.abs(tracks[0]).max() > 0


def test_statistics_know_the_latency_of_the_session(run, model):
    from ussfast.separator import Separator

    code, _, err = run("--rate", RATE, "--stem", "sfx", "--stats", data=bytes(2 * RATE))
    latency = Separator(model, PROMPTS, device="cpu").session(RATE, channels=1).latency
    assert code == 0 and err.splitlines()[-1].endswith(f"latency {round(1000 * latency, 3)} ms")


def test_nan_is_silenced_with_a_line_or_refused(run):
    audio = noise(1, 3000)
    audio[0, 1000] = np.nan
    options = ("--rate", RATE, "--format", "f32le", "--stem", "speech")
    code, out, err = run(*options, data=raw(audio))
    assert code == 0 and len(out) == 4 * 3000 and np.isfinite(np.frombuffer(out, "<f4")).all()
    assert err.startswith("ussfast: ") and err.count("\n") == 1
    code, _, err = run(*options, "--on-bad", "raise", data=raw(audio))
    assert code == 2 and err.startswith("ussfast: ") and err.count("\n") == 1


def test_unknown_prompts_and_stems(run):
    for arguments, says in ((("-p", "speach"), "speach"), (("--stem", "drums"), "there are speech, sfx, residual")):
        code, out, err = run("--rate", RATE, *arguments, data=bytes(100))
        assert code == 2 and out == b"" and says in err and err.count("\n") == 1


def test_live(run, model, monkeypatch, tmp_path):
    audio = noise(1, 1920).T

    def drive(stream):
        while stream.given < 1920:
            stream.tick()
        stream.settings["finished_callback"]()  # what came until then is still separated

    monkeypatch.setitem(sys.modules, "sounddevice", fake_sounddevice.make(audio, drive))
    code, _, err = run("--live", "-o", tmp_path)
    assert code == 1 and "the sound device has stopped" in err
    expected = separated(model, audio.T, RATE)
    for name, stem in zip(PROMPTS, expected, strict=True):
        got = soundfile.read(tmp_path / f"{name}.wav", dtype="float32", always_2d=True)[0].T
        np.testing.assert_allclose(got, stem, atol=1e-4)
