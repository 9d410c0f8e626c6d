"""`ussfast train`: data, trainer and console around one recipe."""

import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ussfast.checkpoint import save_model
from ussfast.engine import pick_device
from ussfast.errors import InputError
from ussfast.evaluate.dev import DevMixture, dev_mixtures
from ussfast.models import build
from ussfast.train import checkpoints
from ussfast.train.credits import credits
from ussfast.train.data import AudioPool, read_manifest
from ussfast.train.recipe import load_recipe
from ussfast.train.trainer import Trainer


def train_recipe(source: str, data: Path, output: Path, max_minutes: float | None, device: str) -> None:
    """Trains a recipe in `output` (resuming what is there) and leaves the best weights as `output`/model."""
    recipe = load_recipe(source)
    target = pick_device(device)
    items = [item for item in read_manifest(data) if item.license_class in recipe.license_classes]
    rate = recipe.model.sample_rate

    def load(split: str, where: Any) -> AudioPool:
        chosen = [item for item in items if item.split == split]
        return AudioPool.load(chosen, rate, where, lambda rows: tqdm(rows, f"decoding {split}", disable=None))

    train = load("train", target)
    dev: list[DevMixture] = []
    if any(item.split == "dev" for item in items):
        dev = list(dev_mixtures(load("dev", "cpu"), recipe.run.validate_items))
    trainer = Trainer(recipe, train, dev, output)
    print(f"{recipe.name}: {trainer.model.parameter_count() / 1e6:.2f} M parameters on {target}, step {trainer.step}")
    finished = trainer.run(max_minutes, _print_row)
    used = [item for item in items if item.split == "train"]
    export(output, recipe.name, license=f"weights of a model trained on {', '.join(recipe.license_classes)} audio")
    (output / "model" / "CREDITS.md").write_text(credits(used, recipe.name))
    print(f"{'finished' if finished else 'stopped'} at step {trainer.step}; model: {output / 'model'}")


def _print_row(row: dict[str, Any]) -> None:
    clock = time.strftime("%H:%M:%S")
    if "si_sdr_improvement" in row:
        scores = "  ".join(f"{task} {value:+.2f}" for task, value in row["si_sdr_improvement"].items())
        print(f"{clock}  step {row['step']}: SI-SDR improvement {scores}  mean {row['mean']:+.2f} dB", flush=True)
    else:
        print(f"{clock}  step {row['step']}: loss {row['loss']:.3f}, {row['hours']:.2f} h", flush=True)


def export(run: Path, name: str, license: str) -> Path:
    """The best weights of a run (the newest, if none was validated) as a float16 model directory."""
    import torch

    best = run / "best"
    folder = best if best.is_dir() else checkpoints.newest(run)
    if folder is None:
        raise InputError(f"{run}: no checkpoint to export")
    config, weights, facts = checkpoints.load_weights(folder)
    model = build(config)
    model.load_state_dict(weights)
    source = {"trained_with": "ussfast train", "step": facts["step"], "hours": round(facts["seconds"] / 3600, 2)}
    save_model(
        run / "model", model, name=name, license=license, source=source, dtype=torch.float16, overwrite=True
    )
    return run / "model"
