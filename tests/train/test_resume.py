"""Resuming bit for bit with everything switched on, and checkpoints from before there was so much to store."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from running import exactly, same, steps, trainer_in
from safetensors.torch import load_file, save_file
from tiny import CAUSAL, RATE, tiny_recipe

from ussfast.errors import CheckpointError
from ussfast.train import checkpoints
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer

ALL = {
    "optim": {
        "steps": 6, "name": "muon", "schedule": "wsd", "accumulate": 2, "ema": 0.9, "autoclip_percentile": 10.0
    },
    "run": {"validate_every": 2, "keep_best": 2},
}  # fmt: skip


def noisy(trainer):
    """The trainer with something like dropout in its model."""

    def shake(module, inputs, output):
        return output + 0.1 * torch.randn_like(output) if module.training else output

    trainer.model.encoder.register_forward_hook(shake)
    return trainer


def test_six_steps_are_three_and_three(tmp_path, pool, dev):
    straight = noisy(trainer_in(tmp_path / "a", pool, dev, **ALL))
    assert straight.run()
    first = noisy(trainer_in(tmp_path / "b", pool, dev, **ALL))
    rows = []
    for _ in range(3):
        steps(first, 1)
        if first.step == 2:
            rows.append(first.validated())
    first._save()
    torch.manual_seed(99)  # whatever happened in between
    second = noisy(trainer_in(tmp_path / "b", pool, dev, **ALL))
    assert second.step == 3 and same(first, second)
    assert second.run(report=rows.append)
    assert same(straight, second)
    one, other = (checkpoints.load(tmp_path / x / "step-0000006", straight.recipe) for x in "ab")
    exactly(one.extra, other.extra)
    assert {"random.0.torch", "autoclip.history", "ema.prompts"} <= one.extra.keys()
    assert [p.name for p in checkpoints.best(tmp_path / "a")] == [p.name for p in checkpoints.best(tmp_path / "b")]
    assert len(straight.kept) == 2 and straight.best == max(mean for _, mean in straight.kept)
    # The noise matters: with another state of its generator the second half ends elsewhere.
    shutil.copytree(tmp_path / "b" / "step-0000003", tmp_path / "c" / "step-0000003")
    third = noisy(trainer_in(tmp_path / "c", pool, dev, **ALL))
    torch.manual_seed(1)
    third.run()
    assert third.step == 6 and not torch.equal(third.model.prompts, straight.model.prompts)


def test_training_on_kernels_resumes_bit_for_bit(tmp_path, pool):
    changes = {"optim": ALL["optim"], "run": {"precision": "bf16"}}
    mix = {"seconds": 0.4, "rows": 8, "again": 1.0, "absent": 0.5, "query_seconds": 0.5, "level_jump": 0.5}
    recipe = replace(recipe_from_dict(tiny_recipe(mix=mix, **changes)), model=CAUSAL)
    recipe = replace(recipe, loss=replace(recipe.loss, silence="mixture", high_weight=0.2, high_hz=RATE / 4))

    def trainer(folder):
        return Trainer(Separation(recipe, pool, []), tmp_path / folder)

    straight, first = trainer("a"), trainer("b")
    whole = steps(straight, 5)
    half = steps(first, 2)
    first._save()
    torch.manual_seed(99)
    second = trainer("b")
    assert half + steps(second, 3) == whole and same(straight, second)


def test_stretching_a_run(tmp_path, pool):
    optim = {"schedule": "wsd", "decay": 0.25, "warmup": 0}
    short = trainer_in(tmp_path, pool, optim={"steps": 4} | optim)
    steps(short, 3)
    assert short.learning_rate(3) == 0.01
    short._save()
    long = trainer_in(tmp_path, pool, optim={"steps": 8} | optim)
    assert long.step == 3 and long.run() and long.learning_rate(7) == 0.005


def strip(folder):
    """Turns a checkpoint into one of an earlier version: weights, optimiser, one generator, no mean weights."""
    state = json.loads((folder / "state.json").read_text())
    state["facts"]["rng"] = state["facts"]["rng"][0]
    del state["facts"]["kept"], state["facts"]["dev"], state["sha256"]
    (folder / "state.json").write_text(json.dumps(state))
    for shard in folder.glob("*.safetensors"):
        tensors = {k: v for k, v in load_file(shard).items() if k.startswith(("model.", "optimizer."))}
        save_file(tensors, shard)


def test_checkpoints_of_earlier_versions(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 2)
    trainer._save()
    strip(checkpoints.newest(tmp_path))
    later = trainer_in(tmp_path, pool)
    exactly(later.model.state_dict(), trainer.model.state_dict())
    exactly(later.optimizer.state_dict(), trainer.optimizer.state_dict())
    exactly(later.ema.state(), dict(trainer.model.named_parameters()))
    assert later.step == 2 and later.kept == []
    assert later.work.mixer.rng.bit_generator.state == trainer.work.mixer.rng.bit_generator.state
    exactly(checkpoints.load_weights(checkpoints.newest(tmp_path))[1], trainer.model.state_dict())


def test_a_run_goes_on_under_a_recipe_of_another_name(tmp_path, pool):
    first = trainer_in(tmp_path, pool)
    steps(first, 1)
    first._save()
    second = Trainer(Separation(replace(first.recipe, name="renamed"), pool, []), tmp_path)
    assert second.step == 1 and same(first, second)


def test_weights_of_a_full_checkpoint_are_the_mean_ones(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 3)
    trainer._save()
    weights = checkpoints.load_weights(checkpoints.newest(tmp_path))[1]
    assert weights.keys() == trainer.model.state_dict().keys()
    exactly(weights["prompts"], trainer.ema.state()["prompts"])
    assert not torch.equal(weights["prompts"], trainer.model.prompts)


def test_another_optimiser_is_refused(tmp_path, pool):
    trainer_in(tmp_path, pool)._save()
    with pytest.raises(CheckpointError, match="another optimiser"):
        trainer_in(tmp_path, pool, optim={"name": "muon"})
