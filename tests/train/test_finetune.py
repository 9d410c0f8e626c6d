"""Fine-tuning on a user's stems: the better model is written, the run goes on, and nothing half-done stays."""

import json

import numpy as np
import pytest
import soundfile
import torch
import yaml
from stem_folders import CHIMERA, MODELS, stem_folder, stem_recipe
from tiny import ASP, RATE, files_in, noise, tiny_detector_directory, tiny_directory, tiny_model

import ussfast
from ussfast.checkpoints.store import load_model, save_model
from ussfast.errors import AudioError, InputError
from ussfast.train.finetune import FACTS, finetune, mixed, report
from ussfast.train.trainer import Trainer
from ussfast.train.transfer_runs import TransferOptions
from ussfast.tuning.joint import BANK


@pytest.fixture(scope="module")
def stems(tmp_path_factory):
    return stem_folder(tmp_path_factory.mktemp("stems"), ("high", "low", "vocals"))


@pytest.fixture
def recipe(tmp_path):
    """A file of a quick one; the model in it is another one than that which learns."""
    made = stem_recipe(optim={"steps": 20, "ema": 0.9}, run={"validate_every": 10})
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump(made))
    return str(tmp_path / "quick.yaml")


def tuned(base, stems, output, recipe, steps=20, options=None, **more):
    options = options or TransferOptions()
    return finetune(str(base), stems, output, options, minutes=None, steps=steps, recipe=recipe, **more)


def test_new_prompts_beside_the_old_ones(tmp_path, stems, recipe):
    base = tiny_directory(tmp_path, MODELS["causal"])
    (base / "CREDITS.md").write_text("# What tiny was trained on\n\n- everything\n")
    said = []
    found = tuned(base, stems, tmp_path / "mine", recipe, say=said.append)
    assert found.gain > 3 and found.share > 0 and found.steps == 20
    assert list(found.before) == ["high", "low", "vocals"] == list(found.after)
    model, info = load_model(tmp_path / "mine")
    assert info.prompts == (*MODELS["causal"].prompts, "high", "low")  # vocals learned on
    assert "CC0-1.0; fine-tuned on your stems (high, low, vocals)" in info.license
    assert info.source["steps"] == 20 and info.source["fine_tuned_from"].startswith("tiny (")
    credits = (tmp_path / "mine" / "CREDITS.md").read_text()
    assert "- everything" in credits and "# What mine was fine-tuned on" in credits and "6 clips" in credits
    assert any("new prompts: high, low" in line for line in said) and any(str(found.run) in line for line in said)
    text = "\n".join(report(found, "tiny"))
    assert "-p high,low,vocals" in text and "mean" in text and "the same command goes on" in text

    # What is written is what was measured: on the part that was held out, and as a stream.
    separator = ussfast.Separator(tmp_path / "mine", device="cpu", dtype="float32", prompts=("low", "high"))
    mixture = noise(1, 2000)[0]
    whole = separator.separate(mixture, RATE).stems
    pieces = [p.stems for p in separator.stream([mixture[:700], mixture[700:]], RATE)]
    np.testing.assert_allclose(np.concatenate(pieces, -1), whole, atol=1e-5)


def test_the_same_command_goes_on_and_another_one_does_not(tmp_path, stems, recipe):
    base = tiny_directory(tmp_path, MODELS["causal"])
    tuned(base, stems, tmp_path / "mine", recipe, 10)
    said = []
    found = tuned(base, stems, tmp_path / "mine", recipe, 20, say=said.append)
    assert found.steps == 20 and any("goes on from step 10" in line for line in said)
    straight = tuned(base, stems, tmp_path / "other", recipe, 20)
    assert straight.after == found.after
    one, other = (load_model(tmp_path / name)[0].state_dict() for name in ("mine", "other"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())

    with pytest.raises(InputError, match="the run there is of --train whole"):
        tuned(base, stems, tmp_path / "mine", recipe, options=TransferOptions(train="head"))
    with pytest.raises(InputError, match="the run there is of another model"):
        tuned(tiny_directory(tmp_path, MODELS["causal"], 1), stems, tmp_path / "mine", recipe)
    shorter = stem_folder(tmp_path / "shorter", ("high", "low", "vocals"), seconds=2.5)
    with pytest.raises(InputError, match="the run there is of other stems"):
        tuned(base, shorter, tmp_path / "mine", recipe)
    (tmp_path / "mine.run" / FACTS).unlink()
    with pytest.raises(InputError, match="there is another run"):
        tuned(base, stems, tmp_path / "mine", recipe, overwrite=True)


def test_no_better_is_the_model_as_it_was(tmp_path, stems, recipe):
    # So fast that it only gets worse.
    plain = yaml.safe_load(open(recipe)) | {"optim": {"steps": 4, "lr": 300.0, "warmup": 0, "ema": 0.0}}
    (tmp_path / "wild.yaml").write_text(yaml.safe_dump(plain))
    base = tmp_path / "good"
    first = tuned(tiny_directory(tmp_path, MODELS["causal"]), stems, base, recipe)
    found = tuned(base, stems, tmp_path / "mine", str(tmp_path / "wild.yaml"), 4)
    assert found.share == 0.0 and found.after == found.before == pytest.approx(first.after)
    assert "nothing was better" in "\n".join(report(found, "good"))
    one, other = (load_model(tmp_path / name)[0].state_dict() for name in ("good", "mine"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_weights_between():
    old, new = {"a": torch.zeros(2), "n": torch.tensor(1)}, {"a": torch.ones(2), "n": torch.tensor(5)}
    between = mixed(old, new, 0.25)
    assert between["a"].tolist() == [0.25, 0.25] and between["n"] == 5


def test_what_is_forgotten_less(tmp_path, stems, recipe):
    """With the old results as targets, the old prompts give more of what they gave."""
    base = tiny_directory(tmp_path, MODELS["causal"])
    mixture = torch.from_numpy(noise(4, 4000))
    old = tiny_model(MODELS["causal"]).eval()
    far = {}
    for keep in (0, 6):
        plain = yaml.safe_load(open(recipe))
        plain["stems"] |= {"keep": keep}
        (tmp_path / f"{keep}.yaml").write_text(yaml.safe_dump(plain))
        tuned(base, stems, tmp_path / f"kept-{keep}", str(tmp_path / f"{keep}.yaml"), 30)
        new = load_model(tmp_path / f"kept-{keep}")[0]
        with torch.no_grad():
            names = ("speech", "sfx", "drums", "bass")
            apart = new.separate(mixture, new.prompt_vectors(names)) - old.separate(mixture, old.prompt_vectors(names))
        far[keep] = float(apart.square().mean())
    assert far[6] < 0.7 * far[0], far


def test_ctrl_c_keeps_the_best_so_far(tmp_path, stems, recipe, monkeypatch):
    base = tiny_directory(tmp_path, MODELS["causal"])
    steps = []

    def stop(row):
        steps.append(row["step"])
        if len(steps) == stop.at:
            raise KeyboardInterrupt

    stop.at = 15
    with pytest.raises(KeyboardInterrupt):
        tuned(base, stems, tmp_path / "mine", recipe, on_step=stop)
    assert load_model(tmp_path / "mine")[1].source["steps"] == 15

    steps.clear()
    stop.at = 5  # nothing was validated by then
    with pytest.raises(KeyboardInterrupt):
        tuned(base, stems, tmp_path / "none", recipe, on_step=stop)
    assert not (tmp_path / "none").exists()

    # What is there is not replaced by half of something.
    before = files_in(tmp_path / "mine"), (tmp_path / "mine" / "config.json").read_text()
    monkeypatch.setattr(Trainer, "run", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tuned(base, stems, tmp_path / "mine", recipe)
    assert before == (files_in(tmp_path / "mine"), (tmp_path / "mine" / "config.json").read_text())


@pytest.mark.parametrize("train", ["whole", "mask"])
def test_models_without_prompts(tmp_path, stems, recipe, train):
    labelled = tiny_model(CHIMERA)
    save_model(tmp_path / "base", labelled, name="base", license="CC0-1.0", source={})
    found = tuned(tmp_path / "base", stems, tmp_path / "mine", recipe, options=TransferOptions(train=train))
    assert found.asks == () and found.gain > 0
    assert "separate FILE -m" in report(found, "base")[-1] and "-p" not in report(found, "base")[-1]


def test_a_model_of_vectors_gets_a_bank(tmp_path, recipe):
    stems = stem_folder(tmp_path / "stems", seconds=12.0, pieces=1)
    detector, base = tiny_detector_directory(tmp_path), tiny_directory(tmp_path, ASP)
    plain = stem_recipe("bslocoformer", optim={"steps": 4}, run={"validate_every": 2})
    (tmp_path / "asp.yaml").write_text(yaml.safe_dump(plain))
    options = TransferOptions(detector=str(detector))
    tuned(base, stems, tmp_path / "mine", str(tmp_path / "asp.yaml"), 4, options)
    separator = ussfast.Separator(tmp_path / "mine", device="cpu")
    assert [prompt.name for prompt in separator.load_prompts(tmp_path / "mine" / BANK)] == ["high", "low", "mid"]


@pytest.mark.parametrize("fault", ["rate", "length", "silent", "nan", "twice", "one"])
def test_bad_stems_are_named_and_nothing_is_written(tmp_path, recipe, fault):
    folder = stem_folder(tmp_path / "stems", ("alto", "bass"), pieces=1) / "piece 0"
    bad = folder / "bass.wav"
    audio, rate = soundfile.read(bad)
    error = InputError
    if fault == "rate":
        soundfile.write(bad, audio, 2 * rate)
    elif fault == "length":
        soundfile.write(bad, audio[: rate // 2], rate)
    elif fault == "silent":
        soundfile.write(bad, 0 * audio, rate)
    elif fault == "nan":
        audio[7] = np.nan
        soundfile.write(bad, audio, rate, "FLOAT")
        error = AudioError
    elif fault == "twice":
        soundfile.write(folder / "BASS.flac", audio, rate)
    else:
        (folder / "alto.wav").unlink()
    base = tiny_directory(tmp_path, MODELS["causal"])
    there = files_in(tmp_path)
    with pytest.raises(error, match="(?i)bass") as caught:
        tuned(base, folder.parent, tmp_path / "mine", recipe)
    assert "\n" not in str(caught.value) and files_in(tmp_path) == there


def test_facts_of_the_run_are_plain(tmp_path, stems, recipe):
    tuned(tiny_directory(tmp_path, MODELS["causal"]), stems, tmp_path / "mine", recipe, 2)
    facts = json.loads((tmp_path / "mine.run" / FACTS).read_text())
    assert facts["output"] == "mine" and facts["train"] == "whole"


def test_time_that_is_up_before_the_first_validation(tmp_path, stems, recipe):
    base, plain = tiny_directory(tmp_path, MODELS["causal"]), yaml.safe_load(open(recipe))
    plain["run"]["validate_every"] = 100_000
    plain["optim"]["steps"] = 100_000
    (tmp_path / "slow.yaml").write_text(yaml.safe_dump(plain))
    rows = []
    found = finetune(
        str(base), stems, tmp_path / "mine", TransferOptions(), minutes=0.02, recipe=str(tmp_path / "slow.yaml"),
        on_row=rows.append,
    )  # fmt: skip
    assert 0 < found.steps < 100_000 and found.share > 0 and found.gain > 0
    assert [row["step"] for row in rows if "si_sdr_improvement" in row] == [found.steps]
