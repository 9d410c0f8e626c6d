"""Weights of a run that another run begins with."""

import dataclasses

import pytest
import torch
from running import steps, trainer_in
from tiny import tiny_recipe

from ussfast import InputError
from ussfast.cli.main import main
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer


def test_a_run_begins_with_what_another_one_kept(tmp_path, pool, capsys):
    first = trainer_in(tmp_path / "first", pool)
    steps(first, 3)
    first._save()
    with pytest.raises(SystemExit) as exit:
        main(["train", "keep", str(tmp_path / "first"), str(tmp_path / "kept" / "stable")])
    assert not exit.value.code and "stable" in capsys.readouterr().out
    recipe = recipe_from_dict(tiny_recipe())
    second = Trainer(Separation(recipe, pool, []), tmp_path / "second", start=tmp_path / "kept" / "stable")
    assert second.step == 0 and not second.optimizer.state_dict()["state"]
    for name, value in first.model.state_dict().items():
        # The weights of the last step, not their mean: to float16.
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    steps(second, 1)
    second._save()
    third = Trainer(Separation(recipe, pool, []), tmp_path / "second", start=tmp_path / "nowhere")
    assert third.step == 1  # a checkpoint goes before weights to begin with

    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, segment_seconds=9.0))
    with pytest.raises(InputError, match="another model"):
        Trainer(Separation(other, pool, []), tmp_path / "third", start=tmp_path / "kept" / "stable")


def test_a_folder_without_a_checkpoint_has_nothing_to_keep(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["train", "keep", str(tmp_path), str(tmp_path / "kept")])
    assert exit.value.code == 2 and "no checkpoint" in capsys.readouterr().err
