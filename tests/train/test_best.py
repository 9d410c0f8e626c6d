"""The best weights of a run: kept, averaged, exported."""

import pytest
import torch
from running import exactly, steps, trainer_in

from ussfast import Separator
from ussfast.train import checkpoints
from ussfast.train.export import average, export


def names(folder):
    return sorted(p.name for p in folder.glob("best-*"))


@pytest.fixture
def run(tmp_path, pool):
    """A run folder with three validated weights: all values 1, 2 and 6; the first is the best."""
    trainer = trainer_in(tmp_path, pool)
    kept = []
    for step, (value, mean) in enumerate([(1.0, 9.0), (2.0, 8.0), (6.0, 7.0)]):
        weights = {k: torch.full_like(v, value) for k, v in trainer.model.state_dict().items()}
        facts = {"step": step, "seconds": 36.0 * step, "mean": mean}
        kept = checkpoints.save_best(tmp_path, trainer.recipe, weights, facts, kept)
    assert kept == [(0, 9.0), (1, 8.0), (2, 7.0)]
    return tmp_path


def test_the_best_are_kept(tmp_path, pool):
    recipe = trainer_in(tmp_path, pool, run={"keep_best": 2}).recipe
    kept = []
    for step, mean in enumerate([1.0, 3.0, 2.0, 0.0, 3.0]):
        kept = checkpoints.save_best(tmp_path, recipe, {"x": torch.tensor([mean])}, {"step": step, "mean": mean}, kept)
    assert kept == [(4, 3.0), (1, 3.0)] and names(tmp_path) == ["best-0000001", "best-0000004"]
    assert [p.name for p in checkpoints.best(tmp_path)] == ["best-0000004", "best-0000001"]
    again = checkpoints.save_best(tmp_path, recipe, {"x": torch.tensor([1.0])}, {"step": 4, "mean": 5.0}, kept)
    assert again == [(4, 5.0), (1, 3.0)]  # validated anew, not twice in the list


def test_a_run_keeps_mean_weights(tmp_path, pool, dev):
    settings = {"optim": {"steps": 6, "ema": 0.9}, "run": {"validate_every": 1, "keep_best": 3}}
    trainer = trainer_in(tmp_path, pool, dev, **settings)
    seen = {}
    validated = trainer.validated

    def watch():
        seen[trainer.step] = {k: v.clone() for k, v in trainer.ema.state().items()}
        return validated()

    trainer.validated = watch
    rows = []
    trainer.run(report=rows.append)
    means = {row["step"]: row["mean"] for row in rows if "mean" in row}
    expected = sorted(means, key=means.get, reverse=True)[:3]
    assert [step for step, _ in trainer.kept] == expected
    assert names(tmp_path) == sorted(f"best-{step:07d}" for step in expected)
    for folder in checkpoints.best(tmp_path):
        _, weights, facts = checkpoints.load_weights(folder)
        exactly(weights["prompts"], seen[facts["step"]]["prompts"])
        assert facts["mean"] == means[facts["step"]]


def test_average():
    parts = [([1.0, 5.0], 3), ([2.0, -5.0], 4)]
    mean = average([{"a": torch.tensor(a), "n": torch.tensor(n)} for a, n in parts])
    exactly(mean, {"a": torch.tensor([1.5, 0.0]), "n": torch.tensor(3)})
    # In float32: in float16 the sum would be infinite.
    halves = average([{"a": torch.tensor([60000.0]).half()} for _ in range(4)])
    assert halves["a"].dtype == torch.float16 and halves["a"].item() == 60000


def measured(want):
    """A measure that likes models whose prompts are near `want`."""
    return lambda model: -abs(float(model.prompts.detach().mean()) - want)


def test_the_average_is_exported_where_it_is_better(run):
    lines = []
    separator = Separator(export(run, "x", "CC0-1.0", measured(3.0), lines.append), "bass", device="cpu")
    assert separator.info.source["averaged_steps"] == [0, 1, 2] and separator.info.source["step"] == 0
    assert len(lines) == 1 and "step 0 -2.00 dB, average of steps 0, 1, 2" in lines[0]
    assert lines[0].endswith("0.00 dB; exporting the average")
    assert checkpoint_value(run) == 3.0


def test_the_single_best_is_exported_where_the_average_is_worse(run):
    lines = []
    info = Separator(export(run, "x", "CC0-1.0", measured(1.2), lines.append), "bass", device="cpu").info
    assert "averaged_steps" not in info.source and info.source["step"] == 0
    assert "step 0 -0.20 dB" in lines[0] and "-1.80 dB; exporting the single step" in lines[0]
    assert checkpoint_value(run) == 1.0


def test_nothing_to_compare_with_exports_the_single_best(run):
    export(run, "x", "CC0-1.0")
    assert checkpoint_value(run) == 1.0


def checkpoint_value(run):
    from safetensors.torch import load_file

    return float(load_file(run / "model/model.safetensors")["prompts"].float().mean())


def test_the_mean_weights_of_the_newest_where_none_was_validated(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    steps(trainer, 3)
    trainer._save()
    export(tmp_path, "x", "CC0-1.0")
    assert checkpoint_value(tmp_path) == pytest.approx(float(trainer.ema.state()["prompts"].mean()), abs=1e-3)


def test_the_newest_is_exported_where_the_rate_has_fallen(tmp_path, pool, dev):
    """However good an earlier one looked on few mixtures."""
    trainer = trainer_in(tmp_path, pool, dev, optim={"steps": 2})
    trainer.run()
    assert checkpoints.newest(tmp_path).name == "step-0000002"
    ones = {k: torch.ones_like(v) for k, v in trainer.model.state_dict().items()}
    checkpoints.save_best(tmp_path, trainer.recipe, ones, {"step": 1, "seconds": 1.0, "mean": 99.0}, trainer.kept)
    for newest, step in ((False, 1), (True, 2)):
        export(tmp_path, "x", "CC0-1.0", newest=newest)
        assert Separator(tmp_path / "model", "bass", device="cpu").info.source["step"] == step
