"""`ussfast train detector` and `ussfast train weak`: data and work of recipes for weakly labelled clips."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any, TypeVar

import torch

from ussfast.audio.atomic import write_failure
from ussfast.audio.temporary import temporary_name
from ussfast.checkpoints.info import read
from ussfast.checkpoints.names import CONFIG, QUERY, WEIGHTS, resolve
from ussfast.checkpoints.store import load_detector
from ussfast.data.clips import LabelRule, known_labels, labels_of, read_clips, rules_of, unknown_label
from ussfast.data.pool import Item
from ussfast.errors import CheckpointError, InputError
from ussfast.train.clip_recipes import ClipRecipe, load_detector_recipe, load_weak_recipe
from ussfast.train.clip_sets import ClipSet
from ussfast.train.run import Job, carry_out, decoded
from ussfast.train.tagging import Tagging
from ussfast.train.weak import Weak

R = TypeVar("R", bound=ClipRecipe)


def train_detector(job: Job) -> None:
    """Trains a detector in the job's folder, resuming what is there, and leaves the best weights as its `model`."""
    job = dataclasses.replace(job, command=("train", "detector"), use="ussfast detect FILE --model {model}")
    recipe = job.stepped(load_detector_recipe(job.source))
    items, rules = _clips(job, recipe)
    recipe = recipe.knowing(rules)
    _check(items, rules, recipe.model.labels)
    accelerator, target = job.processes()
    train, dev = _sets(items, rules, recipe.model.sample_rate, target, accelerator.is_main_process)
    carry_out(job, Tagging(recipe, train, dev), accelerator, train.pool.items, licences=_licences(job))


def train_weak(job: Job, detector: str | None = None) -> None:
    """The same for a separator by vectors of a detector, which gets into its model directory as `query`.

    detector: its model directory, in place of the recipe's. A run that goes on takes its own copy where none is given.
    """
    options = () if detector is None else ("--detector", detector)
    use = "ussfast separate FILE -m {model} --query CLIP"
    job = dataclasses.replace(job, command=("train", "weak"), options=options, use=use)
    recipe = job.stepped(load_weak_recipe(job.source))
    own = job.output / QUERY
    given = detector or (str(own) if os.path.isdir(own) else recipe.detector)
    if given is None:
        raise InputError(f"recipe {recipe.name} names no detector: give one with --detector DIR")
    folder = resolve(given)
    model, info = load_detector(folder)
    digest = _digest(folder)
    if os.path.isdir(own) and _digest(own) != digest:
        raise InputError(f"{job.output}: the run was begun with another detector than {given}: its own is {own}")
    items, rules = _clips(job, recipe)
    _check(items, rules, recipe.trained(rules))
    accelerator, target = job.processes()
    train, dev = _sets(items, rules, recipe.model.sample_rate, target, accelerator.is_main_process)
    work = Weak(recipe, rules, train, dev, model, info.name, digest)
    if accelerator.is_main_process:
        job.output.mkdir(parents=True, exist_ok=True)
        _copied(folder, own)
    used = [item for item, label in zip(train.pool.items, train.labels, strict=True) if label in work.labels]
    finish = lambda made: _copied(own, made / QUERY)  # noqa: E731
    carry_out(job, work, accelerator, used, finish, licences=_licences(job))


def _clips(job: Job, recipe: R) -> tuple[list[Item], tuple[LabelRule, ...]]:
    """Items of the licences that the recipe takes, all of them of a folder, which says nothing of that."""
    items = read_clips(job.data)
    if not os.path.isdir(job.data):
        items = [item for item in items if item.license_class in recipe.license_classes]
    rules = recipe.labels or rules_of(items)
    if not rules:
        raise InputError(f"{job.data}: no item of split train has a label")
    return items, rules


def _licences(job: Job) -> str | None:
    return f"weights of a model trained on audio of {job.data.name}" if os.path.isdir(job.data) else None


def _check(items: list[Item], rules: tuple[LabelRule, ...], trained: tuple[str, ...]) -> None:
    """InputError, before anything is decoded, where there are no clips of a label or none to validate on."""
    found = {split: [item for item in items if item.split == split] for split in ("train", "dev")}
    there = {split: set(labels_of(own, rules)) for split, own in found.items()}
    for name in trained:
        if name not in there["train"]:
            raise unknown_label(name, known_labels(found["train"]), "the training data has")
    if trained and not there["dev"] & set(trained):
        some = ", ".join(trained[:5])
        raise InputError(f"the data has no items of split dev to validate on with one of the labels ({some})")


def _sets(
    items: list[Item], rules: tuple[LabelRule, ...], rate: int, target: torch.device, main: bool
) -> tuple[ClipSet, ClipSet]:
    train, dev = decoded(items, "train", rate, target, main), decoded(items, "dev", rate, "cpu", main)
    return ClipSet(train, labels_of(train.items, rules)), ClipSet(dev, labels_of(dev.items, rules))


def _digest(folder: Path) -> str:
    """What a detector's weights are known by."""
    try:
        return str(read(folder)[1].sha256).lower()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}: not a detector: {error}") from None


def _copied(source: Path, target: Path) -> None:
    """A model directory, with its credits, at another place; what is there is replaced."""
    if source.resolve() == target.resolve():
        return
    fresh: Any = temporary_name(target)
    try:
        fresh.mkdir()
        for name in (CONFIG, WEIGHTS, "CREDITS.md", "README.md"):
            if (source / name).is_file():
                shutil.copyfile(source / name, fresh / name)
        if target.is_dir():
            shutil.rmtree(target)
        os.rename(fresh, target)
    except OSError as error:
        raise write_failure(target, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
