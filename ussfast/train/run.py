"""`ussfast train`: data, trainer and console around one recipe."""

import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import torch
from tqdm import tqdm

from ussfast.checkpoints.store import check_target
from ussfast.data.credits import credits
from ussfast.data.pool import AudioPool, Item, read_manifest
from ussfast.errors import InputError
from ussfast.evaluate.dev import DevMixture, dev_mixtures
from ussfast.models import ARCHITECTURES, architecture_of
from ussfast.train import parallel
from ussfast.train.console import Console, clock
from ussfast.train.export import export
from ussfast.train.recipe import RunRecipe, load_recipe
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer
from ussfast.train.work import Work

if TYPE_CHECKING:
    from accelerate import Accelerator

R = TypeVar("R", bound=RunRecipe)


@dataclass(frozen=True)
class Job:
    """What a run is asked for, whatever is trained.

    source: the recipe's file or name. data: the manifest, or a folder. output: the run folder, resumed if it is one.
    steps: of the whole run, in place of the recipe's.
    start: model directory whose weights a new run begins with.
    until: time.time() at which to stop training, with a checkpoint: what decoding takes counts too.
    command: what the last line says to go on; further options of it are in `options`.
    use: what there is to do with the model, in words for a shell; {model} is its directory.
    """

    source: str
    data: Path
    output: Path
    max_minutes: float | None
    device: str
    steps: int | None = None
    start: Path | None = None
    until: float | None = None
    command: tuple[str, ...] = ("train",)
    options: tuple[str, ...] = ()
    use: str = "ussfast separate FILE -m {model}"

    def stepped(self, recipe: R) -> R:
        """The recipe with the number of steps that is asked for."""
        if self.steps is None:
            return recipe
        return dataclasses.replace(recipe, optim=dataclasses.replace(recipe.optim, steps=self.steps))

    def processes(self, every_weight_used: bool = True) -> tuple["Accelerator", torch.device]:
        """This process among those that train, and its device. Fails where no model can be written in the end."""
        accelerator = parallel.start(self.device, every_weight_used)
        target = parallel.training_device(accelerator, self.device)
        if (self.output / "model").exists():  # told now, and not when there is a model to write
            check_target(self.output.resolve() / "model", overwrite=True)
        return accelerator, target

    def again(self) -> str:
        """What to type for the run to go on."""
        words = ["ussfast", *self.command, self.source, "--data", str(self.data), "-o", str(self.output)]
        words += [*self.options]
        words += ["--steps", str(self.steps)] if self.steps is not None else []
        words += ["--device", self.device] if self.device != "auto" else []
        return shlex.join(words)


def decoded(items: list[Item], split: str, rate: int, where: torch.device | str, main: bool) -> AudioPool:
    """The audio of one split; a process that is not the main one is silent about it."""
    chosen = [item for item in items if item.split == split]
    if main and not sys.stderr.isatty():
        print(f"{clock()}  decoding {len(chosen)} files of split {split}", flush=True)
    hidden = None if main else True
    return AudioPool.load(chosen, rate, where, lambda rows: tqdm(rows, f"decoding {split}", disable=hidden))


def train_recipe(
    source: str,
    data: Path,
    output: Path,
    max_minutes: float | None,
    device: str,
    steps: int | None = None,
    start: Path | None = None,
    until: float | None = None,
    init: Path | None = None,
) -> None:
    """Trains a model that separates by prompts in `output` (resuming what is there) and leaves the best weights as
    `output`/model; see `Job`.

    init: model directory of which a new run's model takes what both have, see `ussfast.train.initial`.
    """
    options = () if init is None else ("--init", str(init))
    job = Job(source, data, output, max_minutes, device, steps, start, until, options=options)
    if init is not None and start is not None:
        raise InputError("--init takes parts of a model, and --start all of it: give one of them")
    recipe = job.stepped(load_recipe(source))
    # A model that can embed examples does so only in batches that have some.
    embeds = hasattr(ARCHITECTURES[architecture_of(recipe.model)][1], "embed")
    accelerator, target = job.processes(every_weight_used=not embeds)
    main = accelerator.is_main_process
    items = [item for item in read_manifest(data) if item.license_class in recipe.license_classes]
    rate = recipe.model.sample_rate
    train = decoded(items, "train", rate, target, main)
    dev: list[DevMixture] = []
    if any(item.split == "dev" for item in items):
        dev = list(dev_mixtures(decoded(items, "dev", rate, "cpu", main), recipe.run.validate_items))
    used = [item for item in items if item.split == "train"]
    carry_out(job, Separation(recipe, train, dev, init), accelerator, used)


def carry_out(
    job: Job,
    work: Work,
    accelerator: "Accelerator",
    used: list[Item],
    finish: Callable[[Path], None] | None = None,
    licences: str | None = None,
) -> None:
    """Trains and exports.

    Args:
        used: the audio that is trained on, for the credits.
        finish: puts more into the model directory.
        licences: what the model records of its licence, if not the classes of the recipe.
    """
    recipe, output, max_minutes = work.recipe, job.output, job.max_minutes
    trainer = Trainer(work, output, accelerator, job.start)
    console = Console(recipe.optim.steps, trainer.step, work.measure.data) if accelerator.is_main_process else None
    if console:
        count = f"{accelerator.num_processes} processes, " if accelerator.num_processes > 1 else ""
        parameters = trainer.model.parameter_count() / 1e6
        console.say(f"{recipe.name}: {parameters:.2f} M parameters on {work.device}, {count}step {trainer.step}")
        for note in [*(() if trainer.step else work.notes), *trainer.notes]:
            console.say(note)
    if job.until is not None:
        left = max(0.0, job.until - time.time()) / 60
        max_minutes = left if max_minutes is None else min(left, max_minutes)
    finished = trainer.run(max_minutes, console.row, console.step) if console else trainer.run(max_minutes)
    if console:
        console.close()
        about = licences or f"weights of a model trained on {', '.join(recipe.license_classes)} audio"
        fallen = finished and recipe.optim.schedule == "wsd"
        compare = work.dev_set is not None and recipe.run.average and work.chooses
        export(
            output, recipe.name, about, (lambda model: work.validate(model.to(work.device))) if compare else None,
            print, newest=fallen or not work.chooses, by=work.measure,
        )  # fmt: skip
        (output / "model" / "CREDITS.md").write_text(credits(used, recipe.name))
        if finish is not None:
            finish(output / "model")
        print(_last_line(finished, trainer.step, job, recipe.optim.steps))
    accelerator.wait_for_everyone()
    if accelerator.num_processes > 1:
        accelerator.end_training()


def _last_line(finished: bool, step: int, job: Job, steps: int) -> str:
    """Where the model is, and how to go on: with the run, or, when it is finished, with the model."""
    model = job.output / "model"
    if finished:
        use = job.use.format(model=shlex.quote(str(model)))
        return f"finished at step {step}; model: {model}; to use it: {use}"
    return f"stopped at step {step} of {steps}; model: {model}; to go on: {job.again()}"
