"""`ussfast train`: data, trainer and console around one recipe."""

import dataclasses
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from ussfast.checkpoints.store import check_target
from ussfast.data.credits import credits
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.evaluate.dev import DevMixture, dev_mixtures
from ussfast.models import ARCHITECTURES, SpectralModel, architecture_of
from ussfast.train import parallel
from ussfast.train.export import export
from ussfast.train.log import Row
from ussfast.train.recipe import load_recipe
from ussfast.train.trainer import Trainer
from ussfast.train.validation import validate

QUIET_SECONDS = 30.0


def train_recipe(
    source: str,
    data: Path,
    output: Path,
    max_minutes: float | None,
    device: str,
    steps: int | None = None,
    start: Path | None = None,
    until: float | None = None,
) -> None:
    """Trains a recipe in `output` (resuming what is there) and leaves the best weights as `output`/model.

    Args:
        source: a recipe's file or name.
        steps: of the whole run, in place of the recipe's.
        start: model directory whose weights a new run begins with.
        until: time.time() at which to stop training, with a checkpoint: what decoding takes counts too.
    """
    recipe = load_recipe(source)
    if steps is not None:
        recipe = dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, steps=steps))
    # A model that can embed examples does so only in batches that have some.
    embeds = hasattr(ARCHITECTURES[architecture_of(recipe.model)][1], "embed")
    accelerator = parallel.start(device, every_weight_used=not embeds)
    target, main = parallel.training_device(accelerator, device), accelerator.is_main_process
    if (output / "model").exists():  # told now, and not when there is a model to write
        check_target(output.resolve() / "model", overwrite=True)
    items = [item for item in read_manifest(data) if item.license_class in recipe.license_classes]
    rate = recipe.model.sample_rate

    def load(split: str, where: Any) -> AudioPool:
        chosen = [item for item in items if item.split == split]
        if main and not sys.stderr.isatty():
            print(f"{_clock()}  decoding {len(chosen)} files of split {split}", flush=True)
        hidden = None if main else True
        return AudioPool.load(chosen, rate, where, lambda rows: tqdm(rows, f"decoding {split}", disable=hidden))

    train = load("train", target)
    dev: list[DevMixture] = []
    if any(item.split == "dev" for item in items):
        dev = list(dev_mixtures(load("dev", "cpu"), recipe.run.validate_items))
    trainer = Trainer(recipe, train, dev, output, accelerator, start)
    console = Console(recipe.optim.steps, trainer.step) if main else None
    if console:
        count = f"{accelerator.num_processes} processes, " if accelerator.num_processes > 1 else ""
        parameters = trainer.model.parameter_count() / 1e6
        console.say(f"{recipe.name}: {parameters:.2f} M parameters on {target}, {count}step {trainer.step}")
        for note in trainer.notes:
            console.say(note)
    if until is not None:
        left = max(0.0, until - time.time()) / 60
        max_minutes = left if max_minutes is None else min(left, max_minutes)
    finished = trainer.run(max_minutes, console.row, console.step) if console else trainer.run(max_minutes)
    if console:
        console.close()

        def measure(model: SpectralModel) -> float:
            return float(np.mean(list(validate(model.to(target), dev, target).values())))

        about = f"weights of a model trained on {', '.join(recipe.license_classes)} audio"
        fallen = finished and recipe.optim.schedule == "wsd"
        export(output, recipe.name, about, measure if dev and recipe.run.average else None, print, newest=fallen)
        used = [item for item in items if item.split == "train"]
        (output / "model" / "CREDITS.md").write_text(credits(used, recipe.name))
        again = _command(source, data, output, device, steps)
        print(_last_line(finished, trainer.step, recipe.optim.steps, output / "model", again))
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        accelerator.end_training()


def _command(source: str, data: Path, output: Path, device: str, steps: int | None) -> str:
    """What to type for a run to go on."""
    words = ["ussfast", "train", source, "--data", str(data), "-o", str(output)]
    words += ["--steps", str(steps)] if steps is not None else []
    words += ["--device", device] if device != "auto" else []
    return shlex.join(words)


def _last_line(finished: bool, step: int, steps: int, model: Path, again: str) -> str:
    """Where the model is, and how to go on: with the run, or, when it is finished, with the model."""
    if finished:
        return f"finished at step {step}; model: {model}; to use it: ussfast separate FILE -m {shlex.quote(str(model))}"
    return f"stopped at step {step} of {steps}; model: {model}; to go on: {again}"


def _clock() -> str:
    return time.strftime("%H:%M:%S")


class Console:
    """Rows of the log as lines; with a terminal, a bar with loss, learning rate and speed instead of most of them.

    Without a terminal no more than QUIET_SECONDS pass without a line, if steps do not take longer.
    """

    def __init__(self, steps: int, step: int):
        self.live, self.steps, self.said = sys.stderr.isatty(), steps, time.monotonic()
        self.bar = tqdm(total=steps, initial=step, unit="step", disable=not self.live)

    def step(self, row: Row) -> None:
        if self.live:
            speed = f"{row['mixtures_per_second']:.1f} mixtures/s"
            self.bar.set_postfix_str(f"loss {row['loss']:.2f}, lr {row['lr']:.1e}, {speed}", refresh=False)
            self.bar.update()
        elif time.monotonic() - self.said > QUIET_SECONDS:
            speed = f"{row['mixtures_per_second']:.1f} mixtures/s"
            self.say(f"{_clock()}  step {row['step']} of {self.steps}: loss {row['loss']:.3f} in this one, {speed}")

    def row(self, row: Row) -> None:
        clock = _clock()
        if "si_sdr_improvement" in row:
            scores = "  ".join(f"{task} {value:+.2f}" for task, value in row["si_sdr_improvement"].items())
            self.say(f"{clock}  step {row['step']}: SI-SDR improvement {scores}  mean {row['mean']:+.2f} dB")
        elif not self.live:
            loss = "not finite" if row["loss"] is None else f"{row['loss']:.3f}"
            speed = f"{row['mixtures_per_second']:.1f} mixtures/s"
            self.say(f"{clock}  step {row['step']}: loss {loss}, {row['hours']:.2f} h, {speed}")

    def say(self, line: str) -> None:
        if self.live:
            self.bar.write(line)
        else:
            print(line, flush=True)
        self.said = time.monotonic()

    def close(self) -> None:
        self.bar.close()
