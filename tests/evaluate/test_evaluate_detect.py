"""`ussfast evaluate detect`: what it measures on, its files, and errors. Scores themselves: test_event_scores.py"""

import dataclasses
import importlib.util
import json

import numpy as np
import pytest
import soundfile
from tiny import DETECTOR, RATE, noise, tiny_detector_directory, tiny_directory

from ussfast import Detector
from ussfast.detect.events import Event, Rules
from ussfast.evaluate import detection, detection_report, event_scores

needs_extra = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sed_eval", "sklearn")),
    reason="the extra detect-eval is not installed",
)
ROWS = (
    ("dog.wav", "sfx", "dog", "dev"), ("rain.wav", "sfx", "rain", "dev"), ("cat.wav", "sfx", "cat", "dev"),
    ("voice.wav", "bell", "speaker 1", "dev"), ("more.wav", "sfx", "dog", "dev"), ("not.wav", "sfx", "dog", "train"),
    ("wind.wav", "sfxbg", "ambience", "dev"),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A detector, a manifest, and files with as many events as a threshold gives."""
    folder = tmp_path_factory.mktemp("data")
    tiny_detector_directory(folder).rename(folder / "model")
    rows = []
    for number, (path, prompt, label, split) in enumerate(ROWS):
        soundfile.write(folder / path, noise(1, RATE * (1 + number % 2), seed=number).T, RATE)
        rows.append(
            {"path": path, "prompt": prompt, "label": label, "split": split, "license_class": "permissive",
             "sample_rate": RATE}
        )  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"items": rows}))
    return folder


@pytest.fixture(scope="module")
def threshold(folder):
    """With events of some labels, not all of the time."""
    return round(float(np.quantile(Detector(folder / "model").frames(folder / "rain.wav"), 0.6)), 4)


def listed(path, events):
    rows = [f"{name}\t{e.onset}\t{e.offset}\t{e.label}\n" for name, e in events]
    path.write_text("filename\tonset\toffset\tevent_label\n" + "".join(rows))
    return path


@pytest.fixture(scope="module")
def found(folder, threshold):
    """What the detector finds in two files."""
    detector = Detector(folder / "model")
    return [(n, e) for n in ("dog.wav", "rain.wav") for e in detector.detect(folder / n, threshold=threshold)]


class Recorded(event_scores.EventScores):
    """In place of the packages: remembers what it is given."""

    def __init__(self, labels, **settings):
        self.labels, self.settings, self.files = list(labels), settings, []
        Recorded.last = self

    def add(self, wanted, found, seconds):
        self.files.append((list(wanted), list(found), seconds))

    @property
    def event_based(self):
        one = event_scores.F(0.5, 0.25, 0.75, 1.0)
        return event_scores.Scores(one, one, dict.fromkeys(self.labels, one))

    segment_based = event_based


@pytest.fixture
def recorded(monkeypatch):
    def average_precision(scores, right):
        Recorded.tags = scores, right
        return [0.5] * right.shape[1]

    monkeypatch.setattr(detection, "check_extra", lambda: None)
    monkeypatch.setattr(detection, "EventScores", Recorded)
    monkeypatch.setattr(detection, "average_precision", average_precision)
    return Recorded


def test_scenes_and_clips_of_a_manifest(folder, threshold, recorded):
    rules, measure = Rules(threshold), detection.Measure(0.3, 0.1, 0.5)
    result = detection.evaluate_manifest(folder / "model", folder / "manifest.json", "cpu", 3, rules, measure)
    assert recorded.last.labels == ["bell", "dog", "rain"], "a label, or a prompt where the label is not known"
    assert recorded.last.settings == {"collar": 0.3, "length_share": 0.1, "segment": 0.5}
    assert result.left_out == {"cat": 1} and (result.scenes, result.seconds, result.seed) == (3, 30.0, 0)
    detector = Detector(folder / "model")
    made = detection.scenes(*_sounds(folder), RATE, 3, 0)
    for scene, (wanted, found, seconds) in zip(made, recorded.last.files, strict=True):
        assert (wanted, seconds) == (scene.events, 10)
        assert found == detector.detect(scene.audio, RATE, threshold=threshold)
    tags, right = recorded.tags
    clips = ("dog.wav", "rain.wav", "voice.wav", "more.wav")
    expected = np.stack([detector.tag(folder / name) for name in clips])[:, detector.columns(["bell", "dog", "rain"])]
    assert np.array_equal(tags, expected)
    assert right.astype(int).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    assert (result.clips, result.classes, result.mean_average_precision) == (4, 3, 0.5)
    counts = {row.label: (row.events, row.clips) for row in result.labels}
    events = [event.label for scene in recorded.last.files for event in scene[0]]
    assert counts == {label: (events.count(label), clips) for label, clips in (("bell", 1), ("dog", 2), ("rain", 1))}
    assert all((row.event_based is None) == (row.events == 0) for row in result.labels)


def test_labels_of_a_recipe(folder, recorded, command, capsys, tmp_path):
    rules = [{"name": "dog", "labels": ["cat", "rain"]}, {"name": "bell", "prompts": ["sfxbg"]}, "thunder"]
    recipe = {"kind": "detector", "name": "it", "model": {"architecture": "cnn14"}, "labels": rules}
    (tmp_path / "it.yaml").write_text(json.dumps(recipe | {"optim": {"steps": 1}}))
    asked = ("--data", folder / "manifest.json", "-m", folder / "model", "--labels", tmp_path / "it.yaml")
    assert command("evaluate", "detect", *asked, "--count", 2, "--json", "--device", "cpu") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["tags"] == {"map": 0.5, "classes": 2, "clips": 3}
    assert summary["left_out"] == {"dog": 2, "speaker 1": 1}, "what no rule fits"
    assert recorded.tags[1].astype(int).tolist() == [[0, 1], [0, 1], [1, 0]]
    assert recorded.last.labels == ["dog"], "a background is no sound of a scene"


def _sounds(folder):
    items = [item for item in detection.read_manifest(folder / "manifest.json") if item.split == "dev"]
    own = {"dog.wav": "dog", "rain.wav": "rain", "voice.wav": "bell", "more.wav": "dog"}
    by_name = {item.path.rsplit("/")[-1]: item for item in items}
    return [(by_name[name], label) for name, label in own.items()], [by_name["wind.wav"]]


def test_files_of_a_table(folder, found, threshold, recorded, tmp_path):
    others = [("dog.wav", Event("cat", 0.1, 0.2, 1.0)), ("more.wav", Event("cat", 0.1, 0.2, 1.0))]
    own = [(name, event) for name, event in found if event.label != "bell"]
    table = listed(tmp_path / "events.tsv", [*own, *others])
    result = detection.evaluate_references(folder / "model", table, folder, "cpu", Rules(threshold))
    labels = sorted({event.label for _, event in own})
    assert recorded.last.labels == labels, "the others are not asked for"
    assert result.left_out == {"cat": 2} and (result.seed, result.mean_average_precision) == (None, None)
    assert result.scenes == 3 and result.seconds == pytest.approx(1 + 2 + 1)
    for name, (wanted, there, _) in zip(("dog.wav", "rain.wav", "more.wav"), recorded.last.files, strict=True):
        assert [(e.label, e.onset) for e in wanted] == [(e.label, e.onset) for n, e in own if n == name]
        expected = Detector(folder / "model").detect(folder / name, threshold=threshold, labels=labels)
        assert there == expected


def test_one_label_alone_has_no_precision(folder, recorded, tmp_path):
    rows = json.loads((folder / "manifest.json").read_text())["items"]
    rows = [row | {"path": str(folder / row["path"])} for row in rows if row["label"] == "dog"]
    (tmp_path / "manifest.json").write_text(json.dumps({"items": rows}))
    result = detection.evaluate_manifest(folder / "model", tmp_path / "manifest.json", "cpu", 2)
    assert (result.mean_average_precision, result.classes, result.clips) == (None, 0, 2)
    assert "average precision" in detection_report.table(result) and "Tags of" not in detection_report.table(result)


def test_the_command_writes_what_was_measured(folder, recorded, command, capsys, tmp_path):
    asked = ("evaluate", "detect", "--data", folder / "manifest.json", "-m", folder / "model", "--device", "cpu")
    out = tmp_path / "new/folder"
    assert command(*asked, "--count", 2, "-o", out) == 0
    said = capsys.readouterr()
    assert said.out.split() == [str(out / "evaluation.json"), str(out / "evaluation.md")]
    assert said.err == "ussfast: labels that the detector does not know are left out: cat (1)\n"
    content = json.loads((out / "evaluation.json").read_text())
    assert (content["kind"], content["model"], content["scenes"]) == ("detection", "tiny", 2)
    assert content["event_micro"] == {"f": 0.5, "precision": 0.25, "recall": 0.75, "error_rate": 1.0}
    assert content["rules"] == dataclasses.asdict(Rules()) and content["measure"]["collar"] == 0.2
    text = (out / "evaluation.md").read_text()
    assert text.startswith("# tiny\n\n2 scenes, 20 s at 8000 Hz") and "seed 0" in text
    assert "| events, collar 0.2 s | 50.0 | 25.0 | 75.0 | 50.0 | 1.00 |" in text and "cat (1)" in text
    for lines in (part.splitlines() for part in text.split("\n\n") if part.startswith("|")):
        assert len({line.count("|") for line in lines}) == 1
    assert command(*asked, "--count", 2) == 0
    assert capsys.readouterr().out.strip() in text
    assert command(*asked, "--count", 2, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["event_based"] == {"micro_f": 0.5, "macro_f": 0.5, "error_rate": 1.0}
    assert summary["tags"] == {"map": 0.5, "classes": 3, "clips": 4} and summary["left_out"] == {"cat": 1}


def test_bad_input_is_one_line(folder, recorded, command, capsys, tmp_path):
    data, model = folder / "manifest.json", ("-m", folder / "model")
    tags = tiny_detector_directory(tmp_path, dataclasses.replace(DETECTOR, pooling="clip"), seed=1)
    (tmp_path / "empty.json").write_text('{"items": []}')
    (tmp_path / "dir").mkdir()
    unknown = listed(tmp_path / "unknown.tsv", [("dog.wav", Event("cat", 0.0, 1.0, 1.0))])
    gone = listed(tmp_path / "gone.tsv", [("gone.wav", Event("dog", 0.0, 1.0, 1.0))])
    long = listed(tmp_path / "long.tsv", [("x" * 300, Event("dog", 0.0, 1.0, 1.0))])
    wrong = {
        (): "give either --data MANIFEST or --references FILE",
        ("--data", data, "--references", gone): "give either --data MANIFEST or --references FILE",
        ("--data", data, "--audio", folder): "is for the files of --references",
        ("--references", gone, "--labels", "detector"): "is for the items of --data",
        ("--data", data, *model, "--labels", "gone.yaml"): "no recipe gone.yaml",
        ("--data", data, *model, "--labels", "default"): "the recipe is of kind 'separation'",
        ("--data", "gone.json", *model): "gone.json: no such manifest",
        ("--data", tmp_path / "empty.json", *model): "no items of the split 'dev'",
        ("--data", unknown, *model): "is not a manifest",
        ("--references", "gone.tsv", *model): "gone.tsv: no such table of events",
        ("--references", unknown, "--audio", folder, *model): "no label in it is one of the detector's: there are",
        ("--references", gone, *model): "gone.wav, a file of",
        ("--references", long, *model): "no such file",
        ("--data", data, "-m", tags): "tags whole clips",
        ("--data", data, "-m", tiny_directory(tmp_path)): "a model that separates, not a detector",
        ("--data", data, *model, "--threshold", 2): "threshold must be a number from 0 to 1",
        ("--data", data, *model, "--collar", 0): "collar must be a number from 0.001 s to 60 s",
        ("--data", data, *model, "--length-share", 2): "length_share must be a number from 0 to 1",
        ("--data", data, *model, "--segment", "nan"): "segment must be a number from 0.01 s",
        ("--data", data, *model, "--device", "abacus"): "unknown device",
    }  # fmt: skip
    for arguments, says in wrong.items():
        code = command("evaluate", "detect", *arguments, "-o", tmp_path / "made")
        said = capsys.readouterr()
        assert (code, said.out) == (2, "") and says in said.err and said.err.count("\n") == 1, (arguments, said.err)
    assert not (tmp_path / "made").exists()
    assert command("evaluate", "detect", "--data", data, *model, "-o", data) == 1
    assert "manifest.json" in capsys.readouterr().err


def test_without_the_packages_it_says_how_to_get_them(folder, command, capsys, monkeypatch):
    monkeypatch.setattr(event_scores, "_average_precision", lambda: event_scores._imported("no such package"))
    monkeypatch.setattr(event_scores, "_sound_event", lambda: None)
    assert command("evaluate", "detect", "--data", folder / "manifest.json", "-m", folder / "model") == 2
    err = capsys.readouterr().err
    assert "pip install 'ussfast[detect-eval]'" in err and err.count("\n") == 1


@needs_extra
def test_a_detector_that_is_right_scores_one(folder, found, threshold, command, capsys, tmp_path):
    asked = ("-m", folder / "model", "--audio", folder, "--threshold", threshold, "--json", "--device", "cpu")
    assert command("evaluate", "detect", "--references", listed(tmp_path / "all.tsv", found), *asked) == 0
    summary = json.loads(capsys.readouterr().out)
    for kind in ("event_based", "segment_based"):
        assert summary[kind] == {"micro_f": 1.0, "macro_f": 1.0, "error_rate": 0.0}
    # Without one of its events there is one too many.
    label = next(event.label for _, event in found if sum(e.label == event.label for _, e in found) > 1)
    gone = next(i for i, (_, event) in enumerate(found) if event.label == label)
    table = listed(tmp_path / "most.tsv", [pair for i, pair in enumerate(found) if i != gone])
    assert command("evaluate", "detect", "--references", table, *asked) == 0
    events = len(found)
    scores = json.loads(capsys.readouterr().out)["event_based"]
    assert scores["micro_f"] == pytest.approx(2 * (events - 1) / (2 * events - 1))


@needs_extra
def test_a_manifest_with_the_packages(folder, command, capsys):
    asked = ("--data", folder / "manifest.json", "-m", folder / "model", "--device", "cpu", "--count", 2)
    assert command("evaluate", "detect", *asked) == 0
    assert "mean average precision" in capsys.readouterr().out
