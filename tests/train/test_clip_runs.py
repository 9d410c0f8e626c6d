"""`ussfast train detector` and `ussfast train weak`, from clips to models that are used."""

import json
import shutil

import pytest
import soundfile
import yaml
from clip_data import NEW, TONES, burst, clip_manifest, known, plain_detector, plain_weak
from tiny import RATE, tiny_detector_directory

from ussfast import Detector, Separator
from ussfast.checkpoints.store import load_detector, load_model
from ussfast.cli.main import main
from ussfast.train.clip_recipes import load_detector_recipe, load_weak_recipe
from ussfast.train.log import PRECISION, SDR, read_log
from ussfast.train.recipe import load_recipe

LONGER = {"steps": 2, "lr": 0.01, "warmup": 1, "ema": 0.5}
OFTEN = {"validate_every": 1, "log_every": 1}


def command(*arguments):
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return exit.value.code or 0


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with clips, and the runs of a detector and of a separator that asks it."""
    folder = tmp_path_factory.mktemp("runs")
    manifest = clip_manifest(folder)
    detector = plain_detector(optim=LONGER, run=OFTEN)
    (folder / "detector.yaml").write_text(yaml.safe_dump(detector))
    assert command("train", "detector", folder / "detector.yaml", "--data", manifest, "-o", folder / "a",
                   "--device", "cpu") == 0  # fmt: skip
    weak = plain_weak(optim=LONGER, run=OFTEN)
    (folder / "weak.yaml").write_text(yaml.safe_dump(weak))
    assert command("train", "weak", folder / "weak.yaml", "--data", manifest, "-o", folder / "b", "--device", "cpu",
                   "--detector", folder / "a" / "model") == 0  # fmt: skip
    return folder


def test_a_detector_is_exported_with_its_licence_and_credits(trained):
    made = Detector(trained / "a" / "model", device="cpu")
    assert made.labels == tuple(TONES) and made.info.name == "tiny" and made.info.source["trained_with"]
    assert "permissive" in made.info.license
    assert made.tag(burst(300, 0.5), RATE).shape == (3,)
    credits = (trained / "a/model/CREDITS.md").read_text()
    assert "low for train" in credits and "for dev" not in credits
    rows = [row for row in read_log(trained / "a") if PRECISION.key in row]
    assert [row["step"] for row in rows] == [1, 2] and rows[0][PRECISION.key].keys() == set(TONES)
    assert "Average precision" in (trained / "a/validation.md").read_text()


def test_a_separator_is_exported_with_its_detector(trained):
    model, info = load_model(trained / "b" / "model")
    query, _ = load_detector(trained / "b" / "model" / "query")
    assert query.embedding_dim == model.config.latent_dim and query.labels == tuple(TONES)
    for name in ("config.json", "model.safetensors", "CREDITS.md"):
        assert (trained / "b/model/query" / name).read_bytes() == (trained / "a/model" / name).read_bytes()
    assert "permissive" in info.license and "low for train" in (trained / "b/model/CREDITS.md").read_text()
    rows = [row[SDR.key] for row in read_log(trained / "b") if SDR.key in row]
    assert len(rows) == 2 and set(rows[0]) == {
        "mixture", "clean", "silence", "held out, mixture", "held out, clean", "held out, silence"
    }  # fmt: skip


def test_what_was_trained_separates_by_example(trained):
    separator = Separator(trained / "b" / "model", device="cpu")
    separator.enroll("mine", [burst(300, 0.9)], sample_rate=RATE)
    stems = separator.separate(burst(300, 0.9) + burst(2500, 0.9), RATE, prompts="mine").stems
    assert stems.any()


def test_a_run_goes_on_with_the_detector_that_it_has(trained, tmp_path, capsys):
    run = tmp_path / "b"
    shutil.copytree(trained / "b", run)
    arguments = ("train", "weak", trained / "weak.yaml", "--data", trained / "manifest.json", "-o", run)
    assert command(*arguments, "--steps", 3, "--device", "cpu") == 0
    out, err = capsys.readouterr()
    assert "on cpu, step 2\n" in out and "finished at step 3" in out and "other development" not in out and err == ""
    assert out.splitlines()[-1].endswith("--query CLIP")
    other = tiny_detector_directory(tmp_path, known())
    assert command(*arguments, "--detector", other, "--device", "cpu") == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the run was begun with another detector" in err


def test_a_stopped_run_says_how_to_go_on(trained, tmp_path, capsys):
    detector = ("--detector", trained / "a/model")
    arguments = ("train", "weak", trained / "weak.yaml", "--data", trained / "manifest.json", "-o", tmp_path / "c")
    assert command(*arguments, *detector, "--device", "cpu", "--max-minutes", 1e-9) == 0
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.split("to go on: ")[1].split() == ["ussfast", *map(str, (*arguments, *detector)), "--device", "cpu"]


def test_a_folder_of_clips_needs_no_manifest_and_no_labels(tmp_path, capsys):
    for label, tone in TONES.items():
        (tmp_path / "clips" / label).mkdir(parents=True)
        for number in range(3):
            soundfile.write(tmp_path / "clips" / label / f"{number}.wav", burst(tone, 0.5, seed=number), RATE)
    recipe = plain_detector(optim=LONGER)
    del recipe["labels"]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    arguments = ("train", "detector", tmp_path / "recipe.yaml", "--data", tmp_path / "clips", "-o", tmp_path / "run")
    assert command(*arguments, "--device", "cpu") == 0
    assert "decoding 6 files of split train" in capsys.readouterr().out
    made, info = load_detector(tmp_path / "run" / "model")
    assert made.labels == tuple(sorted(TONES)) and info.license == "weights of a model trained on audio of clips"


def changed(folder, source, target, change):
    recipe = yaml.safe_load((folder / source).read_text())
    recipe |= change
    target.write_text(yaml.safe_dump(recipe))
    return target


@pytest.mark.parametrize(
    ("which", "change", "says"),
    [
        ("detector", {"labels": ["lwo", "hgih"]}, "the training data has no label 'lwo'; did you mean 'low'?"),
        ("detector", {"labels": ["low", "hgih"]}, "the training data has no label 'hgih'; did you mean 'high'?"),
        ("detector", {"labels": ["low"]}, "training needs clips of 2 labels at least, got low"),
        ("detector", {"kind": "weak"}, "is for 'ussfast train weak'"),
        ("weak", {"held_out": ["hgih"]}, "held_out: recipe tiny has no label 'hgih'"),
        ("weak", {"held_out": [*TONES, *NEW]}, "training needs clips of 2 labels at least, got none"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(trained, tmp_path, capsys, which, change, says):
    recipe = changed(trained, f"{which}.yaml", tmp_path / "recipe.yaml", change)
    more = ("--detector", trained / "a/model") if which == "weak" else ()
    arguments = ("--data", trained / "manifest.json", "-o", tmp_path / "run", "--device", "cpu")
    assert command("train", which, recipe, *arguments, *more) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and says in err
    assert not (tmp_path / "run").exists()


def test_without_clips_to_validate_on(trained, tmp_path, capsys):
    manifest = json.loads((trained / "manifest.json").read_text())
    rows = [row | {"path": str(trained / row["path"])} for row in manifest["items"] if row["split"] == "train"]
    (tmp_path / "manifest.json").write_text(json.dumps({"items": rows}))
    for which, more in (("detector", ()), ("weak", ("--detector", trained / "a/model"))):
        recipe = changed(trained, f"{which}.yaml", tmp_path / "recipe.yaml", {"held_out": []} if more else {})
        if more:
            recipe = changed(trained, "weak.yaml", recipe, {"held_out": [], "labels": list(TONES)})
        arguments = ("--data", tmp_path / "manifest.json", "-o", tmp_path / "run", "--device", "cpu")
        assert command("train", which, recipe, *arguments, *more) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and "no items of split dev to validate on" in err


def test_detectors_that_are_missing(trained, tmp_path, capsys):
    arguments = ("train", "weak", trained / "weak.yaml", "--data", trained / "manifest.json", "-o", tmp_path / "run")
    assert command(*arguments) == 2 and "names no detector: give one with --detector DIR" in capsys.readouterr().err
    assert command(*arguments, "--detector", tmp_path / "gone") == 2
    assert "no model" in capsys.readouterr().err
    assert command(*arguments, "--detector", trained / "b" / "model") == 2
    assert "a model that separates (asp_unet), not a detector" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_recipe_of_another_kind_names_its_command(trained, capsys):
    arguments = ("--data", trained / "manifest.json", "-o", trained / "x")
    assert command("train", trained / "detector.yaml", *arguments) == 2
    assert "of kind 'detector': it is for 'ussfast train detector'" in capsys.readouterr().err
    assert command("train", "detector", "default", *arguments) == 2
    assert "of kind 'separation': it is for 'ussfast train'" in capsys.readouterr().err


def test_bundled_recipes():
    detector, weak = load_detector_recipe("detector"), load_weak_recipe("weak")
    detector = detector.knowing(detector.labels)
    trained = [rule for rule in weak.labels if rule.name not in weak.held_out]
    # The separator is trained on what the detector knows, and asked for what it does not.
    assert tuple(trained) == detector.labels and not set(weak.held_out) & set(detector.model.labels)
    assert weak.model.latent_dim == detector.model.channels[-1]
    assert weak.model.sample_rate == detector.model.sample_rate == load_recipe("default").model.sample_rate
    from ussfast.models import build_network

    assert 2 * build_network(detector.model).parameter_count() < 2_000_000  # bytes in float16
    assert 0.5e6 < build_network(weak.model).parameter_count() < 2e6
