"""Whether training on kernels learns what plain PyTorch learns: mean losses over the first steps.

    python bench/training/losses.py DATA/manifest.json -o bench/results/training/kernels.json

Recipe `default` with batches of 6 sources and 2 s. Plain PyTorch from two seeds says how far chance goes; kernels start
from the first of them and get the same mixtures.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from ussfast.audio.atomic import atomic_write
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.ops import use_reference
from ussfast.train.recipe import Recipe, load_recipe
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer


def mean_loss(recipe: Recipe, pool: AudioPool, steps: int, eager: bool) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder, use_reference(eager):
        trainer = Trainer(Separation(recipe, pool, []), Path(folder))
        losses = [trainer.train_step(trainer.work.mixer.batch()) for _ in range(steps)]
    return {"all": float(np.mean(losses)), "last_hundred": float(np.mean(losses[-100:]))}


def main(
    manifest: Path, output: Annotated[Path, typer.Option("--output", "-o")], steps: int = 500, rows: int = 6
) -> None:
    recipe = load_recipe("default")
    recipe = replace(recipe, mix=replace(recipe.mix, rows=rows, seconds=2.0))
    items = [i for i in read_manifest(manifest) if i.license_class in recipe.license_classes and i.split == "train"]
    pool = AudioPool.load(items, recipe.model.sample_rate)
    found: dict[str, Any] = {}
    for name, seed, precision, eager in (
        ("PyTorch, float32, seed 0", 0, "fp32", True),
        ("kernels, float32, seed 0", 0, "fp32", False),
        ("kernels, bfloat16, seed 0", 0, "bf16", False),
        ("PyTorch, float32, seed 1", 1, "fp32", True),
    ):
        run = replace(recipe.run, seed=seed, precision=precision)
        found[name] = mean_loss(replace(recipe, run=run), pool, steps, eager)
        print(name, found[name], flush=True)
    with atomic_write(output) as path:
        Path(path).write_text(json.dumps({"steps": steps, "rows": rows, "mean_loss": found}, indent=1))


if __name__ == "__main__":
    typer.run(main)
