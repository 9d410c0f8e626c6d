"""Run folders with other things in them: what is not the run's own is neither removed nor taken for its own."""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from running import exactly, same, steps, trainer_in
from safetensors.torch import load_file
from tiny import tiny_recipe

from ussfast.errors import CheckpointError, InputError, OutputError
from ussfast.train import checkpoints
from ussfast.train.dev_set import fingerprint
from ussfast.train.export import export, keep_newest
from ussfast.train.folders import folders, write
from ussfast.train.log import RunLog, read_log
from ussfast.train.run import train_recipe

FOREIGN = (
    "best-before-new-data", "step-0000100-backup", "step-9999999-backup", "step-100", "step-", "best-", "step-00000001",
    "step--000001", "step-٠٠٠٠٠٠١", "best-0000001.bak", "STEP-0000001", ".step-0000001.mine",
)  # fmt: skip


def put_foreign(folder, whole):
    """Folders with such names: copies of a whole checkpoint, and files."""
    for name in FOREIGN:
        shutil.copytree(whole, folder / name)
    (folder / "best-notes.md").write_text("mine")
    (folder / "step-notes.md").write_text("mine")
    (folder / "step-0009999").write_text("a file")


def content(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_what_is_not_the_runs_own_stays_and_is_not_gone_on_from(tmp_path, pool, dev):
    changes = {"optim": {"steps": 6}, "run": {"validate_every": 1, "keep_best": 1, "checkpoint_every": 1}}
    first = trainer_in(tmp_path / "a", pool, dev, **changes)
    steps(first, 3)
    first.validated()
    first._save()
    put_foreign(tmp_path / "a", tmp_path / "a" / "step-0000003")
    # Names that are the run's, with more in them than it puts there.
    for name in ("step-0000001", "best-0000001"):
        shutil.copytree(tmp_path / "a" / "step-0000003", tmp_path / "a" / name)
        (tmp_path / "a" / name / "notes.txt").write_text("mine")
    own = {"step-0000003", "best-0000003"}
    before = {k: v for k, v in content(tmp_path / "a").items() if k.parts[0] not in own}

    second = trainer_in(tmp_path / "a", pool, dev, **changes)
    assert second.step == 3 and same(first, second) and not second.notes
    second.run()
    after = content(tmp_path / "a")
    assert {k: after.get(k) for k in before} == before
    ours = [p.name for p in sorted((tmp_path / "a").glob("[sb]*-[0-9]*")) if p.name not in (*FOREIGN, "step-0009999")]
    assert [n for n in ours if n.startswith("step")] == ["step-0000001", "step-0000005", "step-0000006"]
    assert len([n for n in ours if n.startswith("best")]) == 2
    export(tmp_path / "a", "x", "CC0-1.0")


def test_what_has_the_name_of_a_checkpoint_steps_aside(tmp_path, pool):
    trainer = trainer_in(tmp_path, pool)
    (tmp_path / "step-0000000").write_text("mine")
    (tmp_path / ".step-0000000.new").write_text("left")
    (tmp_path / ".step-0000000.old").symlink_to(tmp_path / "nowhere")
    trainer._save()
    assert (tmp_path / "step-0000000-other-1").read_text() == "mine"
    assert trainer_in(tmp_path, pool).step == 0 and checkpoints.newest(tmp_path).is_dir()
    (tmp_path / "step-0000000" / "notes.txt").write_text("mine")
    trainer._save()
    assert (tmp_path / "step-0000000-other-2" / "notes.txt").read_text() == "mine"
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_steps_are_numbers(tmp_path):
    for step in (5, 9_999_999, 10_000_000):
        write(tmp_path / f"step-{step:07d}", {"x": torch.ones(1)}, {})
    assert list(folders(tmp_path, "step")) == [5, 9_999_999, 10_000_000]


def flipped(folder):
    shard = folder / "shard-000.safetensors"
    data = bytearray(shard.read_bytes())
    data[-5] ^= 4
    shard.write_bytes(data)


DAMAGE = {
    "a bit": flipped,
    "no shard": lambda folder: (folder / "shard-000.safetensors").unlink(),
    "a short shard": lambda folder: (folder / "shard-000.safetensors").write_bytes(b"12345678"),
    "no state": lambda folder: (folder / "state.json").unlink(),
    "half a state": lambda folder: (folder / "state.json").write_text((folder / "state.json").read_text()[:300]),
    "a list": lambda folder: (folder / "state.json").write_text("[1]"),
    "no text": lambda folder: (folder / "state.json").write_bytes(b"\xff\xfe{"),
    "deep": lambda folder: (folder / "state.json").write_text("[" * 100_000),
    "another step": lambda folder: changed(folder, lambda state: state["facts"].update(step=7)),
    "no step": lambda folder: changed(folder, lambda state: state["facts"].pop("step")),
    "no moments": lambda folder: changed(folder, lambda state: state.pop("optimizer")),
    "no shards": lambda folder: changed(folder, lambda state: state.update(shards=0)),
    "more shards": lambda folder: changed(folder, lambda state: state.update(shards=10**9)),
    "no model": lambda folder: changed(folder, lambda state: state.pop("model")),
}


def changed(folder, change):
    state = json.loads((folder / "state.json").read_text())
    change(state)
    (folder / "state.json").write_text(json.dumps(state))


@pytest.mark.parametrize("name", DAMAGE)
def test_a_run_goes_on_from_its_newest_whole_checkpoint(tmp_path, pool, name):
    first = trainer_in(tmp_path, pool)
    steps(first, 1)
    first._save()
    kept = content(tmp_path / "step-0000001")
    steps(first, 1)
    first._save()
    DAMAGE[name](tmp_path / "step-0000002")
    second = trainer_in(tmp_path, pool)
    assert second.step == 1
    [note] = second.notes
    assert "step-0000002 is not a" in note and "\n" not in note and note.endswith("; looking for another one")
    lines = []
    keep_newest(tmp_path, tmp_path / "kept", lines.append)
    assert all(line.startswith(str(tmp_path / "step-0000002")) for line in lines) and len(lines) < 2
    # What may be mended is not removed, and counts for nothing; when the run is there again, it is replaced.
    second._save()
    assert content(tmp_path / "step-0000001").keys() == kept.keys() and (tmp_path / "step-0000002").is_dir()
    steps(second, 1)
    second._save()
    third = trainer_in(tmp_path, pool)
    assert third.step == 2 and not third.notes and same(first, third)


def test_damaged_checkpoints_take_no_place_of_whole_ones(tmp_path, pool):
    first = trainer_in(tmp_path, pool)
    for _ in range(2):
        steps(first, 1)
        first._save()
    shutil.copytree(tmp_path / "step-0000002", tmp_path / "step-0000003")  # of another step than its name says
    second = trainer_in(tmp_path, pool)
    assert second.step == 2 and len(second.notes) == 1
    steps(second, 2)
    second._save()
    assert list(folders(tmp_path, "step")) == [2, 3, 4]


def test_where_no_checkpoint_is_whole_the_run_does_not_begin_anew(tmp_path, pool):
    trainer_in(tmp_path, pool)._save()
    flipped(tmp_path / "step-0000000")
    before = content(tmp_path)
    for attempt in (
        lambda: trainer_in(tmp_path, pool),
        lambda: export(tmp_path, "x", "CC0-1.0"),
        lambda: keep_newest(tmp_path, tmp_path / "kept"),
    ):
        with pytest.raises(CheckpointError, match="there is no whole checkpoint: .*shard-000.safetensors is damaged"):
            attempt()
    assert content(tmp_path) == before


def test_best_weights_that_cannot_be_read_are_left_out_of_the_export(tmp_path, pool):
    recipe = trainer_in(tmp_path, pool).recipe
    kept, values = [], trainer_in(tmp_path, pool).model.state_dict()
    for step in range(3):
        kept = checkpoints.save_best(tmp_path, recipe, values, {"step": step, "seconds": 1.0, "mean": step}, kept)
    flipped(tmp_path / "best-0000002")
    (tmp_path / "best").mkdir()
    changed(tmp_path / "best-0000001", lambda state: state["facts"].update(mean="high"))
    lines = []
    export(tmp_path, "x", "CC0-1.0", lambda model: 1.0, lines.append)
    assert json.loads((tmp_path / "model/config.json").read_text())["source"]["step"] == 0
    assert len(lines) == 3 and all(line.endswith("it is left out") for line in lines)


def test_the_best_are_validated_anew_on_another_dev_set(tmp_path, pool, dev):
    changes = {"optim": {"steps": 9}, "run": {"validate_every": 1, "keep_best": 2}}
    first = trainer_in(tmp_path, pool, dev, **changes)
    for _ in range(2):
        steps(first, 1)
        first.validated()
    first._save()
    assert len(first.kept) == 2
    # Figures that no other dev set would give.
    changed(tmp_path / "step-0000002", lambda state: state["facts"].update(kept=[[2, 90.0], [1, 80.0]]))
    again = trainer_in(tmp_path, pool, dev, **changes)
    assert again.kept == [(2, 90.0), (1, 80.0)] and not again.notes
    without = trainer_in(tmp_path, pool, (), **changes)
    assert without.kept == again.kept and without.dev_set == again.dev_set

    fewer = dev[1:]
    other = trainer_in(tmp_path, pool, fewer, **changes)
    [note] = other.notes
    assert note.startswith("other development mixtures than before; the best weights on these: step ")
    assert {step for step, _ in other.kept} == {1, 2} and max(mean for _, mean in other.kept) < 60
    assert same_means(other, first, fewer)
    assert torch.equal(torch.get_rng_state(), checkpoint_rng(tmp_path))
    other.validated()
    other._save()
    assert not trainer_in(tmp_path, pool, fewer, **changes).notes


def same_means(other, first, dev):
    """The figures are those of the weights in the folders, on the new mixtures."""
    first.work.dev = dev
    mean = float(np.mean(list(first.validate().values())))
    return dict(other.kept)[2] == pytest.approx(mean, abs=1e-4)


def checkpoint_rng(folder):
    return load_file(folder / "step-0000002" / "shard-000.safetensors")["random.0.torch"]


def test_a_dev_set_is_known_by_all_that_figures_depend_on(dev):
    known = fingerprint(dev)
    assert fingerprint(list(dev)) == known and fingerprint([]) is None
    item = dev[0]
    for change in (
        {"mixture": item.mixture * 1.001}, {"references": item.references[::-1]}, {"prompts": item.prompts[::-1]},
        {"task": "another"},
    ):  # fmt: skip
        assert fingerprint([dataclasses.replace(item, **change), *dev[1:]]) != known
    assert fingerprint(dev[::-1]) != known


def test_lines_of_a_log_that_are_none(tmp_path):
    good = {"step": 1, "loss": 2.0}
    lines = [json.dumps(good), "5", "{", '{"step": "1"}', '{"step": 2, "si_sdr_improvement": 5}', "[" * 99_999]
    lines += ['{"step": 2, "si_sdr_improvement": {"a": "b"}, "mean": 1}', '{"step": 2, "mean": null}', ""]
    (tmp_path / "log.jsonl").write_bytes("\n".join(lines).encode() + b"\xff\n")
    assert read_log(tmp_path) == [good]
    RunLog(tmp_path, 5, False).write({"step": 3, "si_sdr_improvement": {"music": 1.0}, "mean": 1.0})
    assert len(read_log(tmp_path)) == 2
    (tmp_path / "b" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(OutputError, match="is a folder"):
        RunLog(tmp_path / "b", 0, False)


def test_a_model_folder_that_is_not_ours_is_told_before_the_training(manifest, tmp_path):
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tiny_recipe()))
    (tmp_path / "run" / "model").mkdir(parents=True)
    (tmp_path / "run" / "model" / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not a ussfast model directory"):
        train_recipe(str(tmp_path / "recipe.yaml"), manifest, tmp_path / "run", None, "cpu")
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["model"]


def test_weights_of_another_run_are_not_averaged(tmp_path, pool):
    recipe = trainer_in(tmp_path, pool).recipe
    values = trainer_in(tmp_path, pool).model.state_dict()
    other = dataclasses.replace(recipe, model=dataclasses.replace(recipe.model, segment_seconds=9.0))
    for step, own in ((1, recipe), (2, other), (3, recipe)):
        facts = {"step": step, "seconds": 1.0, "mean": 5.0 - step}
        checkpoints.save_weights(tmp_path / f"best-{step:07d}", own, values, facts)
    lines = []
    export(tmp_path, "x", "CC0-1.0", lambda model: 1.0, lines.append)
    assert "best-0000002: is of another model" in lines[0] and "average of steps 1, 3" in lines[1]
    exactly(checkpoints.load_weights(tmp_path / "best-0000001")[1], values)
