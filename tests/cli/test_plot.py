"""`ussfast separate --plot`."""

import json
import sys

import pytest
import soundfile
from commands import run
from tiny import RATE, noise


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", noise(2, RATE, seed=1).T, RATE)
    return tmp_path


def test_a_picture_beside_the_stems(model, folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    asked = ("a.wav", "-m", model, "-p", "speech,sfx", "--stem", "sfx", "--format", "opus")
    code, out, _ = run(capsys, "separate", *asked, "--plot", "new/x.png")
    assert (code, out.split()) == (0, ["separated/a/sfx.opus", "new/x.png"])
    assert (folder / "new/x.png").read_bytes().startswith(b"\x89PNG")
    (folder / "new/x.png").unlink()
    code, out, _ = run(capsys, "separate", *asked, "--plot", "new/x.png", "--skip-existing", "--json")  # of those there
    assert code == 0 and json.loads(out)[0]["rtf"] is None and (folder / "new/x.png").is_file()


def test_errors_come_before_the_work(model, folder, capsys, monkeypatch):
    asked = ("a.wav", "-m", model, "-p", "speech")
    wrong = {"x.gif": "a picture is .png, .pdf or .svg", "a.wav/x.png": "is not a folder"}
    for path, says in wrong.items():
        code, _, err = run(capsys, "separate", *asked, "--plot", path)
        assert code in (1, 2) and says in err, (path, err)
    code, _, err = run(capsys, "separate", "b.wav", *asked, "--plot", "x.png")
    assert code == 2 and "is a picture of one input, and here are 2" in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run(capsys, "separate", *asked, "--plot", "x.png")
    assert code == 2 and "pip install 'ussfast[evaluate]'" in err
    assert not (folder / "separated").exists()


def test_a_picture_that_fails_is_an_error_of_its_input(model, folder, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    (folder / "x.png").mkdir()
    code, _, err = run(capsys, "separate", "a.wav", "-m", model, "-p", "speech", "--plot", "x.png")
    assert code == 1 and "x.png: is a folder" in err
    assert (folder / "separated/a/speech.wav").is_file()
