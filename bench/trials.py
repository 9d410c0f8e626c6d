"""What the choices in recipe `default` are worth: variants trained for the same CPU time, from the same seed.

    python bench/trials.py DATA/manifest.json -o bench/results/training/trials.json --minutes 10

The learning rate falls over the last third of the time. The time is that of the process on all its threads, so that
what else runs on the machine matters little. Each variant that is done is in the file; `--only` adds one to those.
"""

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ussfast.audio.atomic import atomic_write
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.evaluate.dev import dev_mixtures
from ussfast.models.causal import CausalModel
from ussfast.profiling.flops import model_flop
from ussfast.train.recipe import Recipe, load_recipe
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer

Change = Callable[[CausalModel], None]


def _masks_of_bands(model: CausalModel) -> None:
    """No features of bins in the masks: what bands say of their bins is all there is."""
    model.decoder.weigh.requires_grad_(False).zero_()


def variants(recipe: Recipe) -> dict[str, tuple[Recipe, Change | None]]:
    """Recipes, and changes of their models, by what differs."""
    model, mix, optim = recipe.model, recipe.mix, recipe.optim
    bands = (5,) * 8 + (10,) * 4 + (20,) * 4 + (40,) * 4 + (80,) * 3 + (81,)
    slow = replace(model, stft=replace(model.stft, n_fft=1280, hop=640, window_length=1280), bands=bands)
    return {
        "default": (recipe, None),
        "masks without features of bins": (recipe, _masks_of_bands),
        "6 features per bin": (replace(recipe, model=replace(model, features=6)), None),
        "hop 640 (40 ms)": (replace(recipe, model=slow), None),
        "hop 640, hidden 144": (replace(recipe, model=replace(slow, hidden=144)), None),
        "hidden 64, 7 blocks": (replace(recipe, model=replace(model, hidden=64, blocks=7)), None),
        "8 rows": (replace(recipe, mix=replace(mix, rows=8)), None),
        "32 rows": (replace(recipe, mix=replace(mix, rows=32)), None),
        "lr 1e-3": (replace(recipe, optim=replace(optim, lr=1e-3)), None),
        "lr 4e-3": (replace(recipe, optim=replace(optim, lr=4e-3)), None),
        "AdamW, lr 1e-3": (replace(recipe, optim=replace(optim, name="adamw", lr=1e-3)), None),
        "SNR to 20 dB": (replace(recipe, loss=replace(recipe.loss, snr_max=20.0)), None),
    }


class Timed(Trainer):
    """Trains for a CPU time; the schedule follows it."""

    def train_for(self, minutes: float) -> int:
        self.begun, self.limit = time.process_time(), 60 * minutes
        while self.done() < 1:
            self.train_step(self.work.batch())
        return self.step

    def done(self) -> float:
        return (time.process_time() - self.begun) / self.limit

    def learning_rate(self, step: int) -> float:
        optim = self.recipe.optim
        return optim.lr * min(1.0, (step + 1) / 60, max(0.0, 1 - self.done()) * 3)


def main(
    manifest: Path,
    output: Annotated[Path, typer.Option("--output", "-o")],
    minutes: float = 10.0,
    mixtures: Annotated[int, typer.Option(help="Per task, to validate on.")] = 40,
    only: Annotated[list[str] | None, typer.Option(help="Variants; all if not given.")] = None,
) -> None:
    recipe = load_recipe("default")
    items = [i for i in read_manifest(manifest) if i.license_class in recipe.license_classes]
    rate = recipe.model.sample_rate
    train, dev = (AudioPool.load([i for i in items if i.split == split], rate) for split in ("train", "dev"))
    held_out = list(dev_mixtures(dev, mixtures))
    rows: list[dict[str, Any]] = json.loads(output.read_text())["rows"] if output.exists() else []
    for name, (changed, change) in variants(recipe).items():
        if only and name not in only:
            continue
        with tempfile.TemporaryDirectory() as folder:
            trainer = Timed(Separation(changed, train, held_out), Path(folder))
            if change:
                with torch.no_grad():
                    change(trainer.model)
            steps = trainer.train_for(minutes)
            scores = trainer.validate()
        row = {
            "variant": name, "cpu_minutes": minutes, "parameters": trainer.model.parameter_count(), "steps": steps,
            "gflop_per_second": round(model_flop(changed.model, 10 * rate, 2) / 1e10, 2),
            "mean": float(np.mean(list(scores.values()))), "si_sdr_improvement": scores,
        }  # fmt: skip
        rows = [r for r in rows if r["variant"] != name] + [row]
        print(json.dumps(row), flush=True)
        facts = {"threads": torch.get_num_threads(), "mixtures_per_task": mixtures, "rows": rows}
        with atomic_write(output) as path:
            Path(path).write_text(json.dumps(facts, indent=1))


if __name__ == "__main__":
    typer.run(main)
