"""`ussfast detect`."""

import csv
import io
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
from commands import run
from golden_detectors import LEVEL, TAGS, golden_detector
from tiny import noise, tiny_directory

from ussfast import CheckpointError, Detector, Separator
from ussfast.checkpoints import names
from ussfast.checkpoints.store import save_model

RATE = 32000


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A detector, and one that tags whole clips."""
    folder = tmp_path_factory.mktemp("models")
    for name in (LEVEL, TAGS):
        save_model(folder / name, golden_detector(name), name=name, license="CC0-1.0", source={"made": "at random"})
    return folder


@pytest.fixture
def model(models):
    return models / LEVEL


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "more").mkdir()
    for seed, name in enumerate(("a", "more/b")):
        soundfile.write(tmp_path / f"{name}.wav", noise(2, 2 * RATE, seed=seed).T, RATE)
    return tmp_path


@pytest.fixture
def threshold(model, folder):
    """With events of some labels, not all."""
    return float(np.quantile(Detector(model).frames("a.wav"), 0.7))


def test_a_line_for_each_event(model, folder, threshold, capsys):
    code, out, err = run(capsys, "detect", "a.wav", "-m", model, "--threshold", threshold)
    assert (code, err) == (0, "")
    expected = Detector(model).detect("a.wav", threshold=threshold)
    assert expected and out.splitlines() == [
        f"{e.onset:8.2f} {e.offset:8.2f}  {e.score:.2f}  {e.label}" for e in expected
    ]
    code, out, err = run(capsys, "detect", "a.wav", "-m", model, "--threshold", 1)
    assert (code, out, err) == (0, "", "ussfast: a.wav: no events above 1\n")
    assert run(capsys, "detect", "a.wav", "-m", model, "--threshold", 1, "-q") == (0, "", "")


def test_several_files_and_folders(model, folder, threshold, capsys):
    code, out, _ = run(capsys, "detect", "a.wav", "more", "a.wav", "-m", model, "--threshold", threshold)
    names = [line.split(": ")[0] for line in out.splitlines()]
    assert code == 0 and list(dict.fromkeys(names)) == ["a.wav", "more/b.wav"]


def test_rules_and_labels(model, folder, threshold, capsys):
    detector = Detector(model)
    label = detector.detect("a.wav", threshold=threshold)[0].label
    rules = {"low": threshold, "minimum": 0.0, "gap": 0.0}
    options = [word for name, value in rules.items() for word in (f"--{name}", value)]
    asked = ("detect", "a.wav", "-m", model, "--threshold", threshold, "--json", "-l", label)
    code, out, _ = run(capsys, *asked, *options)
    expected = detector.detect("a.wav", threshold=threshold, labels=[label], **rules)
    assert code == 0 and expected
    (file,) = json.loads(out)
    assert (file["input"], file["error"]) == ("a.wav", None)
    assert file["events"] == [vars(event) for event in expected]


def test_tables_and_label_tracks(model, folder, threshold, capsys):
    asked = ("-m", model, "--threshold", threshold)
    expected = Detector(model).detect("a.wav", threshold=threshold)
    code, out, _ = run(capsys, "detect", "a.wav", "more/b.wav", *asked, "--csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert code == 0 and list(rows[0]) == ["filename", "onset", "offset", "event_label", "score"]
    assert {row["filename"] for row in rows} == {"a.wav", "more/b.wav"}
    of_a = [(row["event_label"], float(row["onset"])) for row in rows if row["filename"] == "a.wav"]
    assert of_a == [(event.label, round(event.onset, 3)) for event in expected]
    code, out, _ = run(capsys, "detect", "a.wav", *asked, "--audacity", "-o", "a.txt")
    assert (code, out) == (0, "")
    lines = [line.split("\t") for line in (folder / "a.txt").read_text().splitlines()]
    found = [(float(onset), float(offset), label) for onset, offset, label in lines]
    assert found == [(event.onset, event.offset, event.label) for event in expected]


def test_top(models, folder, capsys):
    for name in (LEVEL, TAGS):  # also of a model without scores over time
        scores = Detector(models / name).tag("a.wav")
        best = np.argsort(-scores, kind="stable")[:3]
        labels = [Detector(models / name).labels[i] for i in best]
        code, out, err = run(capsys, "detect", "a.wav", "-m", models / name, "--top", 3)
        assert (code, err) == (0, "")
        assert out.splitlines() == [f"{scores[i]:.2f}  {label}" for i, label in zip(best, labels, strict=True)]
        code, out, _ = run(capsys, "detect", "a.wav", "-m", models / name, "--top", 3, "--json")
        assert [tag["label"] for tag in json.loads(out)[0]["tags"]] == labels
        code, out, _ = run(capsys, "detect", "a.wav", "-m", models / name, "--top", 3, "--csv")
        assert out.splitlines()[0] == "filename,event_label,score" and len(out.splitlines()) == 4
    for other in ("--audacity", "--plot=x.png"):
        code, _, err = run(capsys, "detect", "a.wav", "-m", models / LEVEL, "--top", 3, other)
        assert code == 2 and "--top 3: gives no events" in err


def test_errors_stay_with_their_file(models, folder, threshold, capsys):
    bad = noise(1, 4000)
    bad[0, 100] = np.nan
    soundfile.write(folder / "nan.wav", bad.T, RATE, subtype="FLOAT")
    asked = ("a.wav", "-m", models / LEVEL, "--threshold", threshold)
    code, out, err = run(capsys, "detect", "missing.wav", "nan.wav", *asked)
    assert code == 2 and out.startswith("a.wav: ")
    assert "missing.wav: no such file" in err and "nan.wav: contains NaN" in err and len(err.splitlines()) == 2
    code, out, _ = run(capsys, "detect", "missing.wav", *asked, "--json")
    assert code == 2 and [bool(file["error"]) for file in json.loads(out)] == [True, False]
    code, out, _ = run(capsys, "detect", "missing.wav", "-m", models / LEVEL, "--csv", "-o", "x.csv")
    assert (code, out) == (2, "") and not (folder / "x.csv").exists()
    code, out, err = run(capsys, "detect", "a.wav", "-m", models / TAGS)
    assert (code, out) == (2, "") and err.startswith("ussfast: a.wav: ") and "tags whole clips" in err


def test_silence_and_files_that_break_off(model, folder, threshold, capsys):
    soundfile.write(folder / "silent.wav", np.zeros((3 * RATE, 2)), RATE)
    whole = (folder / "more/b.wav").read_bytes()
    (folder / "cut.wav").write_bytes(whole[: len(whole) // 2])
    (folder / "other.wav").write_bytes(b"no audio at all, but some text")
    files = ("silent.wav", "cut.wav", "other.wav", "a.wav")
    code, out, err = run(capsys, "detect", *files, "-m", model, "--threshold", threshold, "--json", "-o", "x.json")
    found = {file["input"]: file for file in json.loads((folder / "x.json").read_text())}
    assert (code, out) == (2, "") and list(found) == list(files)
    alone = Detector(model).detect(np.zeros((2, 3 * RATE), np.float32), RATE, threshold=threshold)
    assert found["silent.wav"]["events"] == [vars(event) for event in alone]
    assert [bool(file["error"]) for file in found.values()] == [False, True, True, False]
    assert "truncated" in found["cut.wav"]["error"] and not found["cut.wav"]["events"]
    assert found["a.wav"]["events"] and len(err.splitlines()) == 2


def test_progress_on_a_terminal(models, folder, threshold, capsys, monkeypatch):
    asked = ("detect", "a.wav", "more", "-m", models / LEVEL, "--threshold", threshold)
    _, expected, err = run(capsys, *asked)
    assert err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    code, out, err = run(capsys, *asked)
    assert (code, out) == (0, expected) and "detecting: 100%" in err and "4/4 s of audio" in err
    assert "4/4 s of audio" in run(capsys, "detect", "a.wav", "more", "-m", models / TAGS, "--top", 1)[2]
    for quiet in ("-q", "--json"):
        assert run(capsys, *asked, quiet)[2] == ""


def test_nothing_waits_for_torch_that_can_be_told_before(folder):
    code = "import sys, ussfast.cli.main as c\ntry: c.main(sys.argv[1:])\nfinally: print('torch' in sys.modules)"
    for wrong in (("a.wav", "-m", "nowhere"), ("a.wav", "-m", "default"), ("a.wav", "--low", "2")):
        done = subprocess.run([sys.executable, "-c", code, "detect", *wrong], capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (2, "False\n"), done.stderr


def test_bad_commands(model, folder, capsys, tmp_path):
    wrong = {
        ("a.wav", "-m", "nowhere"): "no model",
        ("a.wav", "-m", tiny_directory(tmp_path)): "a model that separates, not a detector",
        ("a.wav", "-m", model, "-l", "a thing nobody knows"): "does not know the label 'a thing nobody knows'",
        ("a.wav", "-m", model, "--threshold", 2): "threshold must be a number from 0 to 1",
        ("a.wav", "-m", model, "--low", 0.7): "low must be a number from 0 to 0.5",
        ("a.wav", "-m", model, "--json", "--csv"): "--json and --csv: choose one",
        ("a.wav", "more/b.wav", "-m", model, "--audacity"): "belongs to one file, and here are 2",
        ("a.wav", "more/b.wav", "-m", model, "--plot", "x.png"): "a picture of one input",
        ("a.wav", "-m", model, "--device", "abacus"): "unknown device",
        ("a.wav", "-m", model, "-o", "a.wav"): "an output would overwrite the input",
    }  # fmt: skip
    before = (folder / "a.wav").read_bytes()
    for arguments, says in wrong.items():
        code, out, err = run(capsys, "detect", *arguments)
        assert (code, out) == (2, "") and says in err and len(err.splitlines()) == 1, (arguments, err)
    for place in ("nowhere/x.csv", "more"):
        code, out, err = run(capsys, "detect", "a.wav", "-m", model, "-o", place)
        assert (code, out) == (1, "") and place in err
    assert (folder / "a.wav").read_bytes() == before


def test_the_embedded_detector_is_the_one_that_is_meant(models, folder, threshold, capsys, monkeypatch):
    monkeypatch.setattr(names, "EMBEDDED", folder / "weights")
    code, out, err = run(capsys, "detect", "a.wav", "--threshold", threshold)
    assert (code, out) == (2, "") and "no embedded detector: convert a published one" in err and err.count("\n") == 1
    with pytest.raises(CheckpointError, match="no embedded detector"):
        Detector()
    with pytest.raises(CheckpointError, match="a model that separates .*: it is for ussfast.Separator; this inst"):
        Detector(tiny_directory(folder))
    shutil.copytree(models / LEVEL, folder / "weights/detector")
    code, out, err = run(capsys, "detect", "a.wav", "--threshold", threshold)
    assert (code, err) == (0, "") and out
    for name in ("detector", models / LEVEL):
        assert run(capsys, "detect", "a.wav", "-m", name, "--threshold", threshold)[1] == out
    clip = noise(1, RATE)
    assert np.array_equal(Detector().tag(clip, RATE), Detector(models / LEVEL).tag(clip, RATE))
    with pytest.raises(CheckpointError, match="a model that separates .*; the embedded detector is 'detector'"):
        Detector(tiny_directory(folder, seed=1))
    with pytest.raises(CheckpointError, match="a detector .*: it is for ussfast.Detector and 'ussfast detect'"):
        Separator("detector")
    code, _, err = run(capsys, "detect", "a.wav", "-m", tiny_directory(folder, seed=2))
    assert code == 2 and err.endswith("not a detector: the embedded detector is 'detector'\n")


def test_a_folder_is_taken_for_the_embedded_detector_only_by_name(models, folder, capsys, monkeypatch):
    monkeypatch.setattr(names, "EMBEDDED", folder / "weights")
    shutil.copytree(models / LEVEL, folder / "detector")
    assert run(capsys, "detect", "a.wav")[0] == 2
    assert run(capsys, "detect", "a.wav", "-q", "-m", "detector")[0] == 0


def test_a_picture(model, folder, threshold, capsys, monkeypatch):
    pytest.importorskip("matplotlib", reason="matplotlib draws")
    asked = ("detect", "a.wav", "-m", model, "-q")
    for share in (threshold, 1):  # with events, and with none
        code, _, err = run(capsys, *asked, "--threshold", share, "--plot", "new/x.png")
        assert (code, err) == (0, "") and (folder / "new/x.png").read_bytes().startswith(b"\x89PNG")
        (folder / "new/x.png").unlink()
    code, _, err = run(capsys, *asked, "--plot", "x.gif")
    assert code == 2 and "a picture is .png" in err
    (folder / "y.png").mkdir()
    code, _, err = run(capsys, *asked, "--plot", "y.png")
    assert code == 1 and "y.png: is a folder" in err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, _, err = run(capsys, *asked, "--plot", "x.png")
    assert code == 2 and "pip install 'ussfast[evaluate]'" in err
