"""What the parts of the default model are worth: variants trained for the same CPU time, from the same seed.

    python bench/ablation.py DATA/manifest.json -o bench/results/training/ablation.json --minutes 6

Recipe `default` without augmentation, queries and absent prompts; the learning rate falls over the last third of the
time. The time is that of the process on all its threads, so that what else runs on the machine matters little.
"""

import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ussfast.atomic import atomic_write
from ussfast.evaluate.dev import dev_mixtures
from ussfast.train.data import AudioPool, read_manifest
from ussfast.train.recipe import Recipe, load_recipe
from ussfast.train.rendering import AugmentConfig
from ussfast.train.trainer import Trainer


def variants(recipe: Recipe) -> dict[str, Any]:
    """Models by what differs from the default."""
    model = recipe.model
    return {
        "default (SFC, causal)": model,
        "band split": replace(model, encoder="band_split"),
        "not causal": replace(model, causal=False, sfc=replace(model.sfc, encoder_time="both")),
    }


class Timed(Trainer):
    """Trains for a CPU time; the schedule follows it."""

    def train_for(self, minutes: float) -> int:
        self.begun, self.limit = time.process_time(), 60 * minutes
        while self.done() < 1:
            self.train_step(self.mixer.batch())
        return self.step

    def done(self) -> float:
        return (time.process_time() - self.begun) / self.limit

    def learning_rate(self, step: int) -> float:
        optim = self.recipe.optim
        return optim.lr * min(1.0, (step + 1) / 60, max(0.0, 1 - self.done()) * 3)


def main(
    manifest: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    minutes: float = 6.0,
    mixtures: Annotated[int, typer.Option(help="Per task, to validate on.")] = 20,
    only: Annotated[list[str] | None, typer.Option(help="Variants; all if not given.")] = None,
) -> None:
    recipe = load_recipe("default")
    plain = replace(recipe.mix, augment=AugmentConfig(), query=0.0, absent=0.0, silence=0.0, any_band=0.0)
    items = [i for i in read_manifest(manifest) if i.license_class in recipe.license_classes]
    rate = recipe.model.sample_rate
    train, dev = (AudioPool.load([i for i in items if i.split == split], rate) for split in ("train", "dev"))
    held_out = list(dev_mixtures(dev, mixtures))
    rows = []
    for name, model in variants(recipe).items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trainer = Timed(replace(recipe, model=model, mix=plain), train, held_out, Path(folder))
            steps = trainer.train_for(minutes)
            scores = trainer.validate()
        row = {
            "variant": name, "parameters": trainer.model.parameter_count(), "steps": steps,
            "mean": float(np.mean(list(scores.values()))), "si_sdr_improvement": scores,
        }  # fmt: skip
        rows.append(row)
        print(json.dumps(row), flush=True)
    facts = {"cpu_minutes": minutes, "threads": torch.get_num_threads(), "mixtures_per_task": mixtures, "rows": rows}
    with atomic_write(output) as path:
        Path(path).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    typer.run(main)
