"""A trained detector becomes the embedded one of a small tree, or does not."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
from tiny import DETECTOR, TUSS, noise, tiny_detector_directory, tiny_directory
from typer.testing import CliRunner

from ussfast import Detector
from ussfast.checkpoints.store import load_detector
from ussfast.detect.events import Rules
from ussfast.evaluate import detection_report
from ussfast.evaluate.detection import Detection, LabelScore, Measure
from ussfast.evaluate.event_scores import F

HALF = F(0.5, 0.6, 0.4, 1.0)
EVALUATION = Detection(
    "tiny", "/my/own/manifest.json", 8000, 10, 100.0, 0, Rules(), Measure(), F(0.25, 0.3, 0.2, 1.5), HALF, HALF, HALF,
    0.345, 30, 2, (LabelScore("dog", 5, HALF, HALF, 20, 0.3), LabelScore("rain", 0, None, None, 10, 0.4)), {"cat": 3},
)  # fmt: skip


@pytest.fixture
def tree(tmp_path):
    """A tree without a detector, and a trained one beside it."""
    root = tmp_path / "tree"
    (root / "ussfast/weights").mkdir(parents=True)
    shutil.copytree(tiny_directory(tmp_path, TUSS), root / "ussfast/weights/default")
    (root / "CHANGELOG.md").write_text("# Changelog\n\n## 0.2 (unreleased)\n\n- A change.\n\n## 0.1\n\n- First.\n")
    model = tiny_detector_directory(tmp_path)
    (model / "CREDITS.md").write_text("whose audio it was")
    return root, model


def run(embed, root, model, evaluation=EVALUATION, **more):
    app = embed.typer.Typer()
    app.command()(embed.main)
    arguments = [str(model), "--root", str(root), "--detector"]
    if evaluation is not None:
        content = evaluation if isinstance(evaluation, dict) else detection_report.as_dict(evaluation)
        (root.parent / "evaluation.json").write_text(json.dumps(content))
        arguments += ["--new", str(root.parent / "evaluation.json")]
    for name, value in more.items():
        arguments += [f"--{name}", str(value)]
    return CliRunner().invoke(app, arguments)


def content(root):
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_it_is_embedded(embed, tree):
    root, model = tree
    before = content(root)
    result = run(embed, root, model)
    assert result.exit_code == 0, result.output
    said = "3 labels, mean average precision 0.34 over 2 of them; F-score of segments 50 %, of events 25 %"
    assert said in result.output
    after = content(root)
    home = "ussfast/weights/detector"
    files = {f"{home}/{name}" for name in ("config.json", "model.safetensors", "README.md", "CREDITS.md")}
    assert after.keys() - before.keys() == files
    assert {name for name in before if after[name] != before[name]} == {"CHANGELOG.md"}
    kept = json.loads(after[f"{home}/config.json"])
    assert (kept["name"], kept["weights"]["dtype"], kept["license"]) == ("detector", "float16", "CC0-1.0")
    wanted, found = (load_detector(directory)[0].state_dict() for directory in (model, root / home))
    assert all((wanted[key] - found[key]).abs().max() < 1e-3 for key in wanted)
    assert Detector(root / home).tag(noise(1, 8000), 8000).shape == (3,)
    assert after[f"{home}/CREDITS.md"] == b"whose audio it was"
    card = after[f"{home}/README.md"].decode()
    for line in (
        "Architecture `cnn14`, 8 kHz", "3 labels: `dog`, `rain`, `bell`.", said, "10 scenes, 100 s at 8000 Hz",
        "| events, collar 0.2 s | 25.0 | 30.0 | 20.0 |", "| rain | 0 | - | - | 10 | 0.400 |", "cat (3)", "## Limits",
        "Made at random.", "CC0-1.0. CREDITS.md lists all audio",
    ):  # fmt: skip
        assert line in card, (line, card)
    assert "from manifest.json, seed 0" in card and "/my/own" not in card
    changes = f"## 0.2 (unreleased)\n\n- A change.\n- The embedded detector (`ussfast detect FILE`): {said}.\n\n## 0.1"
    assert changes in after["CHANGELOG.md"].decode()


def test_another_one_takes_its_place(embed, tree, tmp_path):
    root, model = tree
    assert run(embed, root, model).exit_code == 0
    card = root / "ussfast/weights/detector/README.md"
    card.write_text(card.read_text().replace("- It knows the labels", "- Known: it knows the labels"))
    other = tiny_detector_directory(tmp_path, seed=1)
    shutil.copyfile(model / "CREDITS.md", other / "CREDITS.md")
    later = dataclasses.replace(EVALUATION, mean_average_precision=0.5, event_micro=F(0.75, 1, 1, 0))
    result = run(embed, root, other, later)
    assert result.exit_code == 0, result.output
    text = (root / "CHANGELOG.md").read_text()
    assert text.count("- The embedded detector") == 1 and "precision 0.50" in text
    assert "- Known: it knows the labels" in card.read_text() and not list(root.rglob(".*"))


def test_it_is_small(embed, tree, tmp_path, monkeypatch):
    root, _ = tree
    large = tiny_detector_directory(tmp_path, dataclasses.replace(DETECTOR, channels=(64, 128, 256)), seed=2)
    (large / "CREDITS.md").write_text("it")
    before = content(root)
    result = run(embed, root, large)
    assert result.exit_code == 2 and "an embedded detector has at most 2 MB" in result.output
    assert content(root) == before and not list(root.rglob(".*"))
    monkeypatch.setattr(embed.embed_detector, "MOST_BYTES", 3_000_000)
    assert run(embed, root, large).exit_code == 0


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        (None, "give --old and --new"),
        ({"model": "tiny", "tasks": {}}, "not an evaluation of a detector"),
        (detection_report.as_dict(EVALUATION) | {"labels": [{"label": "dog"}]}, "not an evaluation of a detector"),
        (dataclasses.replace(EVALUATION, model="huge"), "the evaluation is of 'huge', not of 'tiny'"),
    ],
)
def test_other_evaluations_are_refused(embed, tree, evaluation, why):
    before = content(tree[0])
    result = run(embed, *tree, evaluation)
    assert result.exit_code == 2 and why in result.output, result.output
    assert content(tree[0]) == before


@pytest.mark.parametrize("broken", ["credits", "separator", "changelog", "rename"])
def test_all_or_nothing(embed, tree, tmp_path, monkeypatch, broken):
    root, model = tree
    if broken == "credits":
        (model / "CREDITS.md").unlink()
    elif broken == "separator":
        model = tiny_directory(tmp_path, TUSS, seed=5)
    elif broken == "changelog":
        (root / "CHANGELOG.md").write_text("nothing of the kind\n")
    else:
        rename = embed.os.rename

        def failing(source, target):
            if Path(target).name == "CHANGELOG.md" and Path(source).name.startswith(".fresh-"):
                raise OSError(28, "No space left on device")
            rename(source, target)

        monkeypatch.setattr(embed.os, "rename", failing)
    before = content(root)
    assert run(embed, root, model).exit_code != 0
    assert content(root) == before and not (root / "ussfast/weights/detector").exists() and not list(root.rglob(".*"))


def test_evaluations_survive_json():
    data = json.loads(json.dumps(detection_report.as_dict(EVALUATION), allow_nan=False))
    assert detection_report.from_dict(data) == EVALUATION
