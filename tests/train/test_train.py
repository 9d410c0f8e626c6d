"""The trainer on a tiny model: learning, stopping, resuming, and the command line around it."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from running import same, steps, trainer_in
from safetensors.torch import load_file
from tiny import CAUSAL, PROMPTS, RATE, UNCONDITIONAL, noise, tiny_recipe

from ussfast import CheckpointError, InputError, OutputError, Separator
from ussfast.cli.main import main
from ussfast.evaluate.dev import TASKS
from ussfast.models.config import to_dict
from ussfast.train import checkpoints, folders
from ussfast.train.losses import prompt_loss
from ussfast.train.objective import prompt_rows
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.run import export
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer


def test_models_without_prompts_are_refused(tmp_path, pool):
    model = {"architecture": "bslocoformer", **json.loads(json.dumps(to_dict(UNCONDITIONAL)))}
    with pytest.raises(InputError, match="only models with prompts"):
        Trainer(Separation(recipe_from_dict(tiny_recipe() | {"model": model}), pool, []), tmp_path)


def test_more_equal_prompts_than_the_model_tells_apart_are_refused(tmp_path, pool):
    model = {"architecture": "causal", **json.loads(json.dumps(to_dict(replace(CAUSAL, repeats=2))))}

    def trainer(*sets):
        recipe = recipe_from_dict(tiny_recipe(mix={"sets": sets}) | {"model": model})
        return Trainer(Separation(recipe, pool, []), tmp_path)

    with pytest.raises(InputError, match="mixtures may have 4 equal prompts, the model tells at most 2 apart"):
        trainer()  # chains may have four
    with pytest.raises(InputError, match="mixtures may have 3 equal prompts"):
        trainer({"prompts": ["sfx", "sfx", "sfx"], "share": 1.0})
    assert np.isfinite(steps(trainer({"prompts": ["sfx", "sfx", "speech"], "share": 1.0}), 1)).all()


def test_learning_rate(tmp_path, pool):
    rate = trainer_in(tmp_path, pool, optim={"steps": 110, "lr": 0.5, "warmup": 10}).learning_rate
    assert [rate(s) for s in (0, 1, 5, 10)] == pytest.approx([0, 0.05, 0.25, 0.5])
    assert [rate(s) for s in (35, 60, 110, 500)] == pytest.approx([0.25 * (1 + np.sqrt(0.5)), 0.25, 0, 0])
    falling = [rate(s) for s in range(10, 111)]
    assert falling == sorted(falling, reverse=True)
    assert trainer_in(tmp_path, pool, optim={"steps": 5, "warmup": 0, "lr": 1.0}).learning_rate(0) == 1.0


def test_the_rate_of_a_step_is_the_one_used(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, optim={"steps": 20, "lr": 0.01, "warmup": 2, "weight_decay": 0.0})
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    steps(trainer, 1)  # the rate is 0
    torch.testing.assert_close(trainer.model.state_dict(), before, rtol=0, atol=0)
    steps(trainer, 1)
    assert trainer.optimizer.param_groups[0]["lr"] == 0.005
    # Adam's first real step moves every weight by at most the rate.
    moved = max((v - before[k]).abs().max().item() for k, v in trainer.model.state_dict().items())
    assert 0.001 < moved <= 0.01


def test_a_fixed_batch_is_learnt(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool, optim={"steps": 1000, "lr": 0.02, "warmup": 3})
    batch = trainer.work.mixer.batch()
    losses = [trainer.train_step(batch) for _ in range(30)]
    assert losses[-1] < losses[0] - 3  # dB
    with torch.no_grad():
        estimates = trainer.model.separate(batch.mixture, prompt_rows(trainer.model, batch.prompts))
    reached = float(prompt_loss(estimates, batch.references, batch.prompts).mean())
    assert reached == pytest.approx(losses[-1], abs=1.5)


def test_a_step_that_explodes_changes_nothing(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 2)
    before = {k: v.clone() for k, v in trainer.model.state_dict().items()}
    batch = trainer.work.mixer.batch()
    batch.mixture[0, 100] = torch.nan
    trainer.train_step(batch)
    torch.testing.assert_close(trainer.model.state_dict(), before, rtol=0, atol=0)
    assert trainer.step == 3 and np.isfinite(steps(trainer, 1)).all()


def test_resuming_changes_nothing(tmp_path, pool):
    straight = trainer_in(tmp_path / "straight", pool)
    expected = steps(straight, 4)
    first = trainer_in(tmp_path / "halves", pool)
    losses = steps(first, 2)
    first._save()
    torch.manual_seed(99)  # whatever happened in between
    second = trainer_in(tmp_path / "halves", pool)
    assert same(first, second) and second.step == 2
    losses += steps(second, 2)
    assert losses == expected and same(straight, second)


def test_run_to_the_end(tmp_path, pool):
    rows = []
    trainer = trainer_in(tmp_path, pool, run={"log_every": 2, "checkpoint_every": 1})
    assert trainer.run(report=rows.append) is True
    assert [row["step"] for row in rows] == [2, 4] and all(np.isfinite(row["loss"]) for row in rows)
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == rows
    assert sorted(p.name for p in tmp_path.iterdir()) == ["log.jsonl", "step-0000003", "step-0000004"]
    again = trainer_in(tmp_path, pool)
    assert again.run() is True and same(trainer, again)  # nothing left to do


def test_no_time_still_leaves_a_checkpoint(tmp_path, pool):
    assert trainer_in(tmp_path / "a", pool).run(max_minutes=0) is False
    assert checkpoints.newest(tmp_path / "a") is not None
    later = trainer_in(tmp_path / "a", pool)
    assert later.step < 4 and later.run() is True
    straight = trainer_in(tmp_path / "b", pool)
    straight.run()
    assert same(straight, later)


def test_shards(tmp_path, pool, monkeypatch):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 2)
    monkeypatch.setattr(folders, "SHARD_BYTES", 4000)
    trainer._save()
    folder = checkpoints.newest(tmp_path)
    shards = sorted(folder.glob("shard-*.safetensors"))
    assert len(shards) > 5 and json.loads((folder / "state.json").read_text())["shards"] == len(shards)
    for shard in shards:
        tensors = load_file(shard).values()
        assert len(tensors) == 1 or sum(t.nbytes for t in tensors) <= 4000
    assert same(trainer, trainer_in(tmp_path, pool))
    monkeypatch.undo()
    assert folders.SHARD_BYTES < 16 * 2**20


def test_another_model_is_refused(tmp_path, pool):
    trainer_in(tmp_path, pool)._save()
    with pytest.raises(CheckpointError, match="was trained with another model configuration than recipe tiny"):
        trainer_in(tmp_path, pool, model={"sos": False})
    trainer_in(tmp_path, pool, optim={"lr": 0.5})  # other settings may change


def test_what_a_killed_run_left_is_ignored(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 1)
    trainer._save()
    for name in (".step-0000002.new", ".step-0000001.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shard-000.safetensors").write_bytes(b"half")
    resumed = trainer_in(tmp_path, pool)
    assert same(trainer, resumed)
    steps(resumed, 1)
    resumed._save()
    assert same(resumed, trainer_in(tmp_path, pool)) and checkpoints.newest(tmp_path).name == "step-0000002"


@pytest.mark.parametrize("damage", ["state.json", "shard-000.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_damaged_checkpoints_say_so(tmp_path, pool, damage, how):
    trainer_in(tmp_path, pool)._save()
    path = checkpoints.newest(tmp_path) / damage
    path.write_bytes(path.read_bytes()[: 100]) if how == "cut" else path.unlink()
    with pytest.raises(CheckpointError, match="step-0000000 is not a training checkpoint"):
        trainer_in(tmp_path, pool)


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path, pool, monkeypatch):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 1)
    trainer._save()

    def full(*args):
        raise OSError(28, "No space left on device")

    other = trainer_in(tmp_path, pool)
    steps(other, 1)
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OutputError, match="step-0000002: could not be written: No space left"):
        other._save()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-0000001"]
    assert same(trainer, trainer_in(tmp_path, pool))


def command(*arguments):
    with pytest.raises(SystemExit) as exit:
        main([str(a) for a in arguments])
    return exit.value.code or 0


@pytest.fixture(scope="module")
def trained(manifest, tmp_path_factory):
    """A run folder, from two steps of `ussfast train` with validation at the second."""
    folder = tmp_path_factory.mktemp("trained")
    recipe = tiny_recipe(optim={"steps": 2}, run={"validate_every": 2})
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert command("train", folder / "recipe.yaml", "--data", manifest, "-o", folder / "run", "--device", "cpu") == 0
    return folder


def test_train_gives_a_model(trained):
    run = trained / "run"
    separator = Separator(run / "model", ("speech", "sfx"), device="cpu")
    assert separator.info.name == "tiny" and separator.info.prompts == PROMPTS
    assert separator.info.source["step"] == 2 and "permissive" in separator.info.license
    assert separator.separate(noise(1, 4000), RATE).stems.any()
    config, weights, facts = checkpoints.load_weights(run / "best-0000002")
    assert config == separator.info.config and facts["step"] == 2 and np.isfinite(facts["mean"])
    stored = load_file(run / "model/model.safetensors")
    assert stored.keys() == weights.keys()
    for key, value in weights.items():
        torch.testing.assert_close(stored[key].float(), value, rtol=2**-11, atol=1e-6)
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in log] == [1, 2, 2]
    assert list(log[2]["si_sdr_improvement"]) == list(TASKS)


def test_train_again_goes_on(trained, manifest, capsys):
    arguments = ("train", trained / "recipe.yaml", "--data", manifest, "-o", trained / "run", "--device", "cpu")
    assert command(*arguments) == 0
    out, err = capsys.readouterr()
    assert err == "" and re.search(r"on cpu, step 2\n", out) and "finished at step 2; model: " in out
    assert re.search(r"decoding \d+ files of split train\n", out)
    assert out.splitlines()[-1].endswith(f"to use it: ussfast separate FILE -m {trained / 'run/model'}")


def test_a_stopped_run_says_how_to_go_on(trained, manifest, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = ("train", trained / "recipe.yaml", "--data", manifest, "-o", run, "--device", "cpu", "--steps", 50)
    assert command(*arguments, "--max-minutes", 1e-9) == 0
    out = capsys.readouterr().out.splitlines()[-1]
    assert re.match(r"stopped at step \d+ of 50; model: ", out)
    words = ["ussfast", *map(str, arguments[:-4]), "--steps", "50", "--device", "cpu"]
    assert out.split("to go on: ")[1].split() == words


def test_evaluate_the_trained_model(trained, manifest, capsys):
    arguments = ("evaluate", "-m", trained / "run/model", "--data", manifest, "--count", 1, "--device", "cpu")
    assert command(*arguments, "--json") == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["music"].keys() == {"drums", "bass", "vocals", "other", "mean"}
    for values in scores.values():
        mean = values.pop("mean")
        assert min(values.values()) - 1e-9 <= mean <= max(values.values()) + 1e-9
    assert command(*arguments) == 0
    assert capsys.readouterr().out.startswith("| task | SI-SDR improvement (dB) |")


@pytest.mark.parametrize("where", ["file", "file/deeper"])
def test_train_where_nothing_can_be_written(trained, manifest, tmp_path, capsys, where):
    (tmp_path / "file").write_text("")
    assert command("train", trained / "recipe.yaml", "--data", manifest, "-o", tmp_path / where) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "cannot be used for output" in err


def test_export_takes_the_best_or_else_the_newest(tmp_path, pool):
    with pytest.raises(InputError, match="no checkpoint to export"):
        export(tmp_path, "x", "CC0-1.0")
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 1)
    trainer._save()
    assert Separator(export(tmp_path, "x", "CC0-1.0"), "bass", device="cpu").info.source["step"] == 1
    steps(trainer, 1)
    # As earlier versions kept them: one folder, named best.
    old = trainer._facts() | {"best": -3.0}
    checkpoints.save_weights(tmp_path / "best", trainer.recipe, trainer.model.state_dict(), old)
    steps(trainer, 1)
    trainer._save()
    info = Separator(export(tmp_path, "y", "CC0-1.0"), "bass", device="cpu").info
    assert (info.name, info.license, info.source["step"]) == ("y", "CC0-1.0", 2)
