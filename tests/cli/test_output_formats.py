"""Stems as MP3, Ogg and Opus, samples beyond full scale, and the facts of --json, from the command line."""

import json

import numpy as np
import pytest
import soundfile
from commands import run
from tiny import noise

from ussfast.audio import read


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working directory, with a recording of 1 s and 11025 Hz that goes far beyond full scale."""
    monkeypatch.chdir(tmp_path)
    loud = noise(2, 11025)
    soundfile.write("loud.wav", (loud * 4 / np.abs(loud).max()).T, 11025, subtype="FLOAT")
    return tmp_path


def loud(capsys, model, *arguments):
    return run(capsys, "separate", "loud.wav", "-m", model, "-p", "speech", "-o", "out", *arguments)


@pytest.mark.parametrize(
    ("name", "more", "subtype", "rate"),
    [
        ("mp3", ("--bitrate", 48), "MPEG_LAYER_III", 11025),
        ("mp3", ("--quality", 10), "MPEG_LAYER_III", 11025),
        ("ogg", ("--quality", 2.5), "VORBIS", 11025),
        ("opus", ("--bitrate", 48), "OPUS", 12000),
    ],
)
def test_lossy_formats(model, folder, capsys, name, more, subtype, rate):
    code, out, err = loud(capsys, model, "--format", name, "--residual", "--clip", "none", *more)
    assert code == 0 and out.splitlines() == [f"out/loud/speech.{name}", f"out/loud/residual.{name}"]
    resampled = "ussfast: warning: loud.wav: opus cannot have 11025 Hz: the files have 12000 Hz\n"
    assert err == (resampled if name == "opus" else "")
    for path in out.splitlines():
        info = soundfile.info(path)
        assert (info.subtype, info.samplerate, info.channels, info.frames) == (subtype, rate, 2, rate)


def test_the_template_says_the_format_too(model, folder, capsys):
    code, out, _ = loud(capsys, model, "--template", "{label}.ogg", "--quality", 1)
    assert code == 0 and out == "out/speech.ogg\n" and soundfile.info("out/speech.ogg").subtype == "VORBIS"


@pytest.mark.parametrize("bits", [16, 32])
def test_rescaled_files_add_up_to_the_rescaled_input(model, folder, capsys, bits):
    code, out, err = loud(capsys, model, "--residual", "--bit-depth", bits, "--clip", "rescale")
    assert code == 0
    stems = np.stack([read(path)[0] for path in out.splitlines()])
    before, _ = read("loud.wav")
    gain = np.vdot(stems.sum(0), before) / np.vdot(before, before)
    assert 0.1 < gain < 0.5 and np.abs(stems).max() == pytest.approx(1 - 2**-15, abs=1e-6)
    np.testing.assert_allclose(stems.sum(0), gain * before, atol=2 * 2.0**-bits + 1e-5)
    assert err.startswith(f"ussfast: warning: loud.wav: all stems scaled by {gain:.4f} (")
    assert loud(capsys, model, "--residual", "--quiet", "--clip", "rescale") == (0, "", "")


def test_clamped_samples_are_told(model, folder, capsys):
    code, out, err = loud(capsys, model, "--residual", "--bit-depth", 16)
    residual = read("out/loud/residual.wav")[0]
    clamped = int(np.count_nonzero((residual == -1) | (residual == 1 - 2**-15)))
    assert code == 0 and clamped > 100
    assert f"loud.wav: residual.wav: {clamped} samples beyond full scale were clamped\n" in err
    assert loud(capsys, model, "--residual")[2] == ""  # float WAV holds them


def test_json_tells_about_each_file(model, folder, capsys):
    (folder / "bad.wav").write_text("nothing")
    code, out, err = loud(capsys, model, "bad.wav", "--format", "opus", "--clip", "rescale", "--json")
    good, bad = json.loads(out)
    assert code == 2 and err.count("\n") == 1 and "bad.wav" in err
    assert (
        list(good) == ["input", "stems", "error", "seconds", "sample_rate", "channels", "rtf", "warnings"] == list(bad)
    )
    assert good["stems"] == {"speech": "out/loud/speech.opus"} and good["error"] is None
    assert (good["seconds"], good["sample_rate"], good["channels"]) == (1.0, 11025, 2) and 0 < good["rtf"] < 1000
    assert good["warnings"][0] == "opus cannot have 11025 Hz: the files have 12000 Hz"
    assert bad["stems"] == {} and "bad.wav" in bad["error"] and bad["warnings"] == []
    assert [bad[key] for key in ("seconds", "sample_rate", "channels", "rtf")] == [None] * 4

    code, out, err = loud(capsys, model, "--format", "opus", "--clip", "rescale", "--json", "--skip-existing")
    (again,) = json.loads(out)
    assert (code, err) == (0, "") and again["stems"] == good["stems"]
    assert (again["seconds"], again["sample_rate"], again["channels"], again["rtf"]) == (1.0, 11025, 2, None)


def test_what_a_codec_cannot_take_is_said_before_a_folder_is_made(model, folder, capsys):
    soundfile.write("loud.wav", noise(3, 11025).T, 11025)
    code, _, err = loud(capsys, model, "--format", "mp3")
    assert code == 2 and err.endswith("loud/speech.mp3: mp3 holds 1 to 2 channels, not 3\n")
    assert not (folder / "out").exists()
