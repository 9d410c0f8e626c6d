"""`ussfast train remix`: data and work of recipes that learn from mixtures alone."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path

from ussfast.data.mixtures import read_mixtures
from ussfast.data.stems import StemPool, read_pieces
from ussfast.errors import InputError
from ussfast.train.remix import Remix
from ussfast.train.remix_recipe import Method, check, load_remix_recipe
from ussfast.train.run import Job, carry_out, decoded
from ussfast.train.work import begun


@dataclass(frozen=True)
class RemixOptions:
    """method: in place of the recipe's. teacher: model directory that the teacher begins with. dev: folder or manifest
    of pieces with stems, whose mixtures are validated on by SI-SDR; it is only ever read for that."""

    method: Method | None = None
    teacher: Path | None = None
    dev: Path | None = None

    def words(self) -> tuple[str, ...]:
        """What to type for them."""
        given = {"--method": self.method, "--teacher": self.teacher, "--dev": self.dev}
        return tuple(word for name, value in given.items() if value is not None for word in (name, str(value)))


def train_remix(job: Job, options: RemixOptions = RemixOptions()) -> None:
    """Trains a model without prompts in the job's folder from mixtures alone, resuming what is there, and leaves the
    best weights as its `model`.

    The teacher begins with the model that is given for it, or the one that the run starts from; else at random.
    """
    job = dataclasses.replace(job, command=("train", "remix"), options=options.words())
    recipe = job.stepped(load_remix_recipe(job.source))
    if options.method is not None:
        remix = dataclasses.replace(recipe.remix, method=options.method, remixit_weight=None, mixed_weight=None)
        recipe = dataclasses.replace(recipe, remix=remix)
    check(recipe)
    items = read_mixtures(job.data)
    if not os.path.isdir(job.data):
        items = [item for item in items if item.license_class in recipe.license_classes]
    if not any(item.split == "train" for item in items):
        raise InputError(f"{job.data}: nothing of the split train has one of the recipe's licences")
    pieces = None if options.dev is None else read_pieces(options.dev)
    accelerator, target = job.processes()
    main, rate = accelerator.is_main_process, recipe.model.sample_rate
    first = options.teacher or job.start
    teacher = None if first is None else begun(recipe, first)
    stems = None if pieces is None else StemPool.load(pieces, rate)
    train = decoded(items, "train", rate, target, main)
    held = None
    if stems is None and any(item.split == "dev" for item in items):
        held = decoded(items, "dev", rate, "cpu", main)
    work = Remix(recipe, train, held, stems, teacher)  # type: ignore[arg-type]
    licences = f"weights of a model trained on audio of {job.data.name}" if os.path.isdir(job.data) else None
    carry_out(job, work, accelerator, train.items, licences=licences)
