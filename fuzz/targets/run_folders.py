"""Run folders of the training: odd names and damaged checkpoints beside good ones. A run goes on from its newest whole
checkpoint, keeps its best, and takes nothing away that is not its own."""

import json
import random
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from tiny import tiny_recipe

from fuzz.mutate import changed
from ussfast.errors import CheckpointError
from ussfast.train import checkpoints
from ussfast.train.folders import first_whole
from ussfast.train.log import RunLog, read_log, validation_table
from ussfast.train.recipe import Recipe, recipe_from_dict

SECONDS, MIB = 10.0, 128
OURS = ("state.json", "shard-000.safetensors")


def prepare(folder: Path) -> tuple[Recipe, Path]:
    recipe = recipe_from_dict(tiny_recipe(run={"keep_best": 2}))
    for step in (1, 2, 3, 10_000_000):
        _save(folder / "runs", recipe, step)
        facts = {"step": step, "seconds": 1.0, "mean": float(-step)}
        weights = {"x": torch.full((3,), 1.0 * step)}
        checkpoints.save_weights(folder / "runs" / f"best-{step:07d}", recipe, weights, facts)
        for kind in ("step", "best"):
            shutil.copytree(folder / "runs" / f"{kind}-{step:07d}", folder / "whole" / f"{kind}-{step:07d}")
    shutil.rmtree(folder / "runs")
    return recipe, folder / "whole"


def _save(run: Path, recipe: Recipe, step: int, passed_over: Collection[Path] = ()) -> Path:
    optimizer = {"state": {0: {"step": torch.tensor(1.0 * step)}}, "param_groups": [{"params": [0], "lr": 0.1}]}
    facts = {"step": step, "seconds": 1.0 * step, "rng": [{}], "kept": [], "dev": None}
    return checkpoints.save(run, recipe, {"x": torch.full((3,), 1.0 * step)}, optimizer, facts, {}, passed_over)


def one(context: tuple[Recipe, Path], rng: random.Random, folder: Path) -> None:
    (recipe, whole), run = context, folder / "run"
    run.mkdir()
    steps: list[int] = []
    perhaps: set[int] = set()  # that may be whole, for all that can be seen
    for place in sorted(whole.iterdir()):
        if rng.random() < 0.6:
            shutil.copytree(place, run / place.name)
            whole_still: bool | None = _damage(run / place.name, rng) if rng.random() < 0.3 else True
            if place.name.startswith("step") and whole_still is not False:
                (perhaps.add if whole_still is None else steps.append)(int(place.name[5:]))
    mine = _foreign(run, whole, rng)
    (run / "log.jsonl").write_bytes(changed(b'{"step": 1, "loss": 2.5}\n{"step": 2, "loss": 1.5}\n' * 3, rng))

    lines: list[str] = []
    found = None
    try:
        found = first_whole(checkpoints.full(run), lambda path: checkpoints.load(path, recipe), lines.append)
    except CheckpointError as error:
        assert "\n" not in str(error)
        assert not steps, f"there are whole checkpoints: {steps}"
    _same(mine)
    if steps:
        assert found is not None and found[1].facts["step"] in perhaps | {max(steps)}, "not the newest whole one"
        assert found[1].facts["step"] >= max(steps), "not the newest whole one"
        assert torch.equal(found[1].weights["x"], torch.full((3,), 1.0 * found[1].facts["step"]))
    assert all("\n" not in line for line in lines)

    step = (found[1].facts["step"] if found else 0) + rng.choice((0, 1, 5))
    kept = [(int(p.name[5:]), -float(p.name[5:])) for p in checkpoints.best(run) if p.name != "best"]
    full = checkpoints.full(run)
    saved = _save(run, recipe, step, full[: full.index(found[0])] if found else full)
    facts = {"step": step, "seconds": 1.0, "mean": rng.choice((0.0, -1e9, 5.0))}
    best = checkpoints.save_best(run, recipe, {"x": torch.zeros(3)}, facts, kept)
    assert len(best) <= 2 and {f"best-{n:07d}" for n, _ in best} <= {p.name for p in run.iterdir()}
    _same(mine)
    again = first_whole(checkpoints.full(run), lambda path: checkpoints.load(path, recipe), lines.append)
    assert again is not None and again[1].facts["step"] >= step and saved.is_dir()
    before = {p.name for p in run.iterdir() if p.name.startswith("step-")}
    assert not (missing := {f"step-{s:07d}" for s in sorted(steps)[-1:] if not perhaps and s <= step} - before), (
        f"lost {missing}"
    )
    log = RunLog(run, step, False)
    log.write({"step": step, "si_sdr_improvement": {"music": 1.0}, "mean": 1.0})
    assert read_log(run)[-1]["step"] == step and validation_table(log.rows)
    assert not [p for p in run.iterdir() if p.name.endswith((".new", ".old"))]


def _damage(folder: Path, rng: random.Random) -> bool | None:
    """Whether the checkpoint is whole still; None if nobody can see it."""
    path = folder / rng.choice(OURS)
    data = path.read_bytes()
    match rng.randrange(5):
        case 0:
            path.unlink()
        case 1:
            path.unlink()
            path.mkdir()
        case 2:
            path.write_bytes(b"")
        case 3 if path.name == "state.json":
            state: dict[str, Any] = json.loads(data)
            table = rng.choice((state, state["facts"]))
            name = rng.choice(sorted(table))
            odd = rng.choice((None, [], {}, "x", -1, True, 1e308, float("nan"), {"a": 1}, [1, 2], 10**30))
            if name in ("model", "architecture"):  # another model, which is told
                return True
            if rng.random() < 0.5:
                del table[name]
            else:
                table[name] = odd
            path.write_text(json.dumps(state))
            return None
        case _ if path.name == "state.json":
            path.write_bytes(data[: rng.randrange(len(data) - 1)])
        case _:
            new = changed(data, rng)
            path.write_bytes(new)
            return True if new == data else False
    return False


def _foreign(run: Path, whole: Path, rng: random.Random) -> dict[Path, bytes | None]:
    """Things that are not the run's own: their files and what is in them."""
    made = []
    for _ in range(rng.randrange(5)):
        kind, step = rng.choice(("step", "best")), rng.choice((0, 1, 2, 3, 4, 99, 10**7))
        name = rng.choice((
            f"{kind}-{step:07d}-backup", f"{kind}-{step}", f"{kind}-{step:08d}", f"{kind}-notes.md", f"{kind}-", kind,
            f"{kind}-before-new-data", f" {kind}-{step:07d}", f"{kind}-{step:07d}~", f"{kind}-+{step:06d}", "notes",
            f"{kind}-{step:07d}\n", f"{kind.upper()}-{step:07d}", f"{kind}-٠٠٠٠٠٠{step % 10}",
        ))  # fmt: skip
        path = run / name
        if path.exists() or name in {f"{kind}-{step:07d}" for kind in ("step", "best") for step in (10**7,)}:
            continue
        match rng.randrange(3):
            case 0:
                path.write_bytes(rng.randbytes(9))
            case 1:
                shutil.copytree(rng.choice(sorted(whole.iterdir())), path)
            case _:
                path.mkdir()
                (path / "mine.txt").write_bytes(rng.randbytes(9))
        made.append(path)
    for place in sorted(run.iterdir()):  # something of the user's in a folder of the run's
        if place.is_dir() and place not in made and rng.random() < 0.1:
            (place / "notes.txt").write_text("mine")
            made.append(place / "notes.txt")
    files = [file for path in made for file in ([path] if path.is_file() else path.rglob("*"))]
    return {file: file.read_bytes() for file in files if file.is_file()}


def _same(mine: dict[Path, bytes | None]) -> None:
    """Each is there, or has stepped aside with its folder."""
    for file, data in mine.items():
        aside = [p / file.name for p in file.parent.parent.glob(f"{file.parent.name}-other-*")]
        assert any(p.is_file() and p.read_bytes() == data for p in (file, *aside)), f"{file.name} is gone"
