"""`ussfast train remix` and `--init`: from folders of mixtures to models that are used, and bad input named by file."""

import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
import yaml
from running import exactly
from test_remix_work import plain, sounds
from tiny import RATE, TUSS, UNCONDITIONAL, tiny_recipe

from ussfast import Separator
from ussfast.checkpoints.store import load_model, save_model
from ussfast.cli.main import main
from ussfast.errors import InputError, UssfastError
from ussfast.models import build
from ussfast.train import checkpoints
from ussfast.train.log import REMIXING, SI_SDR, read_log
from ussfast.train.recipe import load_recipe
from ussfast.train.remix_recipe import load_remix_recipe, remix_from_dict

OFTEN = {"validate_every": 1, "log_every": 1}


def command(*arguments):
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return exit.value.code or 0


def write_recipe(folder, **changes):
    (folder / "recipe.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(plain(**changes)))))
    return folder / "recipe.yaml"


@pytest.fixture
def data(tmp_path):
    """tmp_path with mixtures/train, mixtures/dev and two pieces of stems in stems; no stem of a mixture is anywhere."""
    for split, count in (("train", 4), ("dev", 2)):
        (tmp_path / "mixtures" / split).mkdir(parents=True)
        for number in range(count):
            mixture = sounds(1.0, seed=number + 10 * (split == "dev")).sum(0)
            soundfile.write(tmp_path / "mixtures" / split / f"{number}.wav", mixture, RATE)
    for piece in range(2):
        (tmp_path / "stems" / str(piece)).mkdir(parents=True)
        for name, stem in zip(("high", "low"), sounds(0.6, 90 + piece), strict=True):
            soundfile.write(tmp_path / "stems" / str(piece) / f"{name}.wav", stem, RATE)
    return tmp_path


def test_from_a_folder_of_mixtures_to_a_separator(data, capsys):
    recipe = write_recipe(data, optim={"steps": 2}, run=OFTEN, remix={"warmup": {"by": "mixit", "steps": 1}})
    assert command("train", "remix", recipe, "--data", data / "mixtures", "-o", data / "run", "--device", "cpu") == 0
    assert "ussfast separate FILE -m" in capsys.readouterr().out
    rows = [row for row in read_log(data / "run") if REMIXING.key in row]
    assert [row["step"] for row in rows] == [1, 2] and all(np.isfinite(row["mean"]) for row in rows)
    made = Separator(data / "run" / "model", device="cpu")
    assert made.info.source["step"] == 2  # the newest: without stems, nothing says which weights are best
    found = made.separate(sounds(0.5, 3).sum(0), RATE)
    assert len(found) == 3
    assert "folder mixtures" in (data / "run/model/CREDITS.md").read_text()


def test_stems_are_read_for_validation_alone(data, monkeypatch):
    """Only mixtures and the stems of --dev are ever opened, and what is learned does not depend on the stems."""
    from ussfast import audio

    opened, read = [], audio.read
    monkeypatch.setattr(audio, "read", lambda path: opened.append(str(path)) or read(path))
    recipe = write_recipe(data, optim={"steps": 2}, run=OFTEN | {"average": False})
    arguments = ["train", "remix", recipe, "--data", data / "mixtures", "--device", "cpu"]
    assert command(*arguments, "-o", data / "with", "--dev", data / "stems") == 0
    own = {str(p) for p in (data / "mixtures" / "train").iterdir()}
    dev = {str(p) for p in (data / "stems").rglob("*.wav")}
    assert set(opened) == own | dev
    rows = [row for row in read_log(data / "with") if SI_SDR.key in row]
    assert [row["step"] for row in rows] == [1, 2] and list(rows[0][SI_SDR.key]) == ["high", "low"]
    shutil.rmtree(data / "stems")
    assert command(*arguments, "-o", data / "without") == 0
    found = [checkpoints.load(data / x / "step-0000002", load_remix_recipe(recipe)) for x in ("with", "without")]
    exactly(found[0].weights, found[1].weights)


def test_a_run_stops_says_how_to_go_on_and_goes_on(data, capsys):
    recipe = write_recipe(data, optim={"steps": 3}, run=OFTEN)
    start = data / "start"
    save_model(start, build(UNCONDITIONAL), name="start", license="none", source={})
    arguments = ["train", "remix", recipe, "--data", data / "mixtures", "-o", data / "run", "--device", "cpu",
                 "--method", "remixit", "--teacher", start]  # fmt: skip
    assert command(*arguments, "--max-minutes", "0") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "to go on: ussfast train remix" in last and f"--method remixit --teacher {start}" in last
    again = last.partition("to go on: ussfast ")[2].split()
    assert command(*again) == 0
    assert "finished at step 3" in capsys.readouterr().out


def test_the_teacher_begins_with_what_the_run_begins_with(data):
    recipe, start = write_recipe(data, optim={"steps": 1}, remix={"teacher": {"update": "never"}}), data / "start"
    save_model(start, build(UNCONDITIONAL), name="start", license="none", source={})
    assert command("train", "remix", recipe, "--data", data / "mixtures", "-o", data / "run", "--device", "cpu",
                   "--start", start) == 0  # fmt: skip
    kept = checkpoints.load(data / "run" / "step-0000001", load_remix_recipe(recipe)).extras("work.teacher.")
    exactly(kept, load_model(start)[0].state_dict())


def test_a_prompted_model_begins_with_a_twin(data, manifest, capsys):
    twin, recipe = data / "twin", data / "tuss.yaml"
    save_model(twin, build(UNCONDITIONAL), name="twin", license="none", source={}, dtype=torch.float32)
    plain_form = tiny_recipe(optim={"steps": 1, "lr": 0.0})
    recipe.write_text(yaml.safe_dump(json.loads(json.dumps(plain_form))))
    arguments = ["train", recipe, "--data", manifest, "-o", data / "run", "--device", "cpu"]
    assert command(*arguments, "--init", twin) == 0
    said = capsys.readouterr().out
    assert f"from {twin}: " in said and "at random all or parts of prompts" in said
    model = checkpoints.load(data / "run" / "step-0000001", load_recipe(recipe)).weights
    exactly(model["encoder.weights.0"], load_model(twin)[0].encoder.weights[0].detach())
    # A run that goes on has its own weights, and does not say otherwise.
    assert command(*arguments, "--init", twin, "--steps", "2") == 0
    assert f"from {twin}" not in capsys.readouterr().out
    assert command(*arguments, "--init", twin, "--start", twin) == 2
    assert "give one of them" in capsys.readouterr().err


def test_bad_input_is_named(data, capsys):
    recipe = write_recipe(data)

    def fails(*arguments):
        assert command("train", "remix", recipe, "-o", data / "run", "--device", "cpu", *arguments) != 0
        text = capsys.readouterr().err
        assert text.count("\n") == 1
        return text

    assert "no such manifest or folder" in fails("--data", data / "nowhere")
    assert "--method must be one of self-remixing, remixit" in fails("--data", data, "--method", "mixit")
    assert "no such directory" in fails("--data", data, "--teacher", data / "nowhere")
    assert "nowhere" in fails("--data", data, "--dev", data / "nowhere")
    (data / "empty").mkdir()
    assert "no audio in this folder" in fails("--data", data / "empty")
    broken = data / "mixtures" / "train" / "nan.wav"
    soundfile.write(broken, np.full(800, np.nan, np.float32), RATE, subtype="FLOAT")
    assert str(broken) in fails("--data", data / "mixtures")
    broken.unlink()
    silent = data / "silent"
    silent.mkdir()
    soundfile.write(silent / "a.wav", np.zeros(8000), RATE)
    assert "silent throughout" in fails("--data", silent)
    shutil.rmtree(data / "mixtures" / "train")
    assert "nothing of the split train" in fails("--data", data / "mixtures")


@pytest.mark.parametrize(
    "changes, wanted",
    [
        ({"remix": {"batch": 3}}, "batch must be even"),
        ({"remix": {"remixit_weight": 0, "mixed_weight": 0}}, "must not both be 0"),
        ({"remix": {"sources": 4}}, "the model has 3 outputs only"),
        ({"remix": {"sources": 1}}, "two sources at least"),
        ({"remix": {"log": True}}, "is for the loss mrl1"),
        ({"remix": {"warmup": {"by": "mixit"}}}, "needs both"),
        ({"remix": {"loss": "sdr"}}, "must be one of"),
        ({"kind": "weak"}, "ussfast train weak"),
        ({"model": {"architecture": "tuss"}}, "TussConfig"),
    ],
)
def test_recipes_that_cannot_be(changes, wanted):
    with pytest.raises(UssfastError, match=wanted):
        remix_from_dict(plain(**changes))


def test_models_with_prompts_are_refused():
    from ussfast.models.config import to_dict

    with pytest.raises(InputError, match="models without prompts"):
        remix_from_dict(plain(model={"architecture": "tuss", **to_dict(TUSS)}))


def test_weights_follow_from_the_method():
    assert remix_from_dict(plain()).remix.weights == (0.0, 1.0)
    assert remix_from_dict(plain(remix={"method": "remixit"})).remix.weights == (1.0, 0.0)
    assert remix_from_dict(plain(remix={"remixit_weight": 0.5})).remix.weights == (0.5, 1.0)
    bundled = load_remix_recipe("remix")
    assert bundled.sources == 2 and bundled.remix.warmup.by == "mixit"
