"""Pictures: a tone is where it sounds, blocks do not matter, and nothing is drawn that cannot be."""

import sys

import numpy as np
import pytest
import soundfile

from ussfast.audio import Track, draw, draw_files, picture
from ussfast.errors import AudioError, InputError, OutputError
from ussfast.separation import Separation

RATE = 32000


def tone(hertz, seconds=2.0, rate=RATE):
    return np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate, dtype=np.float32)[None]


def track(audio, rate=RATE, blocks=None):
    return Track("tone", rate, audio.shape[1] / rate, blocks or (audio,))


def row_of(hertz, top):
    return int(picture._mel(hertz) / picture._mel(top) * picture.ROWS)


@pytest.mark.parametrize(("hertz", "rate"), [(440, 16000), (3000, 32000), (9000, 44100)])
def test_a_tone_is_at_its_frequency_and_its_time(hertz, rate):
    top = min(16000, rate / 2)
    audio = np.concatenate([np.zeros((1, rate), np.float32), tone(hertz, 1, rate)], 1)
    power = picture.spectrogram(track(audio, rate), top)
    columns = power.shape[1]
    assert abs(int(power.mean(1).argmax()) - row_of(hertz, top)) <= 2
    assert power[:, : columns // 2 - 4].max() < 1e-9 * power.max()
    assert (power[:, columns // 2 + 4 :].max(0) > 0.5 * power.max()).all()


def test_blocks_and_channels_do_not_matter():
    audio = np.concatenate([tone(500), tone(2000)])
    whole = picture.spectrogram(track(audio), 16000)
    blocks = [audio[:, start : start + 777] for start in range(0, audio.shape[1], 777)]
    np.testing.assert_allclose(picture.spectrogram(track(audio, blocks=blocks), 16000), whole, rtol=1e-4, atol=1e-9)
    each = [picture.spectrogram(track(audio[i : i + 1]), 16000) for i in range(2)]
    np.testing.assert_allclose(whole, (each[0] + each[1]) / 2, rtol=1e-4, atol=1e-9)


def test_a_long_recording_has_no_more_columns_and_loses_nothing():
    audio = np.zeros((1, 60 * RATE), np.float32)
    audio[0, 40 * RATE] = 1.0  # a click
    power = picture.spectrogram(track(audio), 16000).sum(0)
    assert len(power) == picture.COLUMNS
    assert abs(int(power.argmax()) - 40 / 60 * picture.COLUMNS) <= 1 and power.max() > 0


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_a_separation_is_drawn(tmp_path, suffix):
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    mixture = np.zeros((2, 1), np.float32) if suffix == ".pdf" else tone(440)  # one silent sample too
    separation = Separation(("speech", "sfx"), np.stack([mixture, 0 * mixture]), RATE, mixture)
    path = separation.plot(tmp_path / f"new/folder/x{suffix}", residual=True)
    assert path.read_bytes()[:4] == {".png": b"\x89PNG", ".pdf": b"%PDF", ".svg": b"<?xm"}[suffix]
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def panels(monkeypatch):
    figure = pytest.importorskip("matplotlib.figure", reason="matplotlib draws")
    made = []
    monkeypatch.setattr(figure.Figure, "savefig", lambda self, path, **_: (made.append(self), path.write_bytes(b"x")))
    return made


def test_panels_share_their_scale(tmp_path, monkeypatch):
    made = panels(monkeypatch)
    for name, gain, rate in (("m", 1.0, RATE), ("a", 0.1, RATE), ("b", 0.01, 48000)):  # opus has rates of its own
        soundfile.write(tmp_path / f"{name}.wav", gain * tone(1000, rate=rate).T, rate, subtype="FLOAT")
    draw_files(tmp_path / "x.png", tmp_path / "m.wav", [("one", tmp_path / "a.wav"), ("two", tmp_path / "b.wav")])
    axes = [axis for axis in made[0].axes if axis.images]
    assert [axis.get_title(loc="left") for axis in axes] == ["mixture", "one", "two"]
    levels = [float(axis.images[0].get_array().max()) for axis in axes]
    assert levels[0] == pytest.approx(levels[1] + 20, abs=0.1) and levels[0] == pytest.approx(levels[2] + 40, abs=0.5)
    assert {axis.images[0].get_clim() for axis in axes} == {(-picture.RANGE_DB, 0)}
    assert {axis.get_xlim() for axis in axes} == {(0, 2)}


def test_what_cannot_be_drawn(tmp_path, monkeypatch):
    one = [track(tone(440, 0.1))]
    with pytest.raises(InputError, match=r"x.gif: a picture is .png, .pdf or .svg, not .gif"):
        draw(tmp_path / "x.gif", one)
    with pytest.raises(AudioError, match=r"gone.wav: no such file"):
        draw_files(tmp_path / "x.png", tmp_path / "gone.wav", [])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"needs matplotlib: pip install 'ussfast\[evaluate\]'"):
        draw(tmp_path / "x.png", one)
    assert not list(tmp_path.iterdir())


def test_a_failed_picture_leaves_nothing(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    (tmp_path / "x.png").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        draw(tmp_path / "x.png", [track(tone(440, 0.1))])
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
