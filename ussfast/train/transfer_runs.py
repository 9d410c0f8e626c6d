"""`ussfast train transfer`: stems, the model to begin with, and the work of a recipe."""

import dataclasses
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from ussfast.data.pool import Item
from ussfast.data.stems import StemPool, read_pieces
from ussfast.errors import InputError
from ussfast.models import architecture_of
from ussfast.train.run import Job, carry_out
from ussfast.train.transfer import Transfer
from ussfast.train.transfer_parts import Part
from ussfast.train.transfer_prompts import PromptTransfer
from ussfast.train.transfer_recipe import Augment, TransferRecipe, load_transfer_recipe
from ussfast.train.transfer_start import Beginning, fresh, model_rate, of_model
from ussfast.train.transfer_vectors import VectorTransfer

Stage = Literal["pretrain", "finetune", "scratch"]


@dataclass(frozen=True)
class TransferOptions:
    """What is asked for beside the job.

    stage: "pretrain": a fresh model's embedding, by deep clustering alone; "finetune": the model `source`, whose
        configuration takes the place of the recipe's; "scratch": a fresh model.
    source: name or directory of a model. train: what of it learns. augment: in place of the recipe's.
    stems: names of the sources that are wanted; all by default. by: what of a manifest's row a source is called after.
    held: share of the stems that is validated on, where the data has no split dev.
    minutes: of stems to learn from, at most: the first ones of all pieces.
    detector: makes vectors of stems, for a model whose prompts are such and that carries none.
    """

    stage: Stage = "scratch"
    source: str | None = None
    train: Part = "whole"
    augment: Augment | None = None
    stems: tuple[str, ...] = ()
    by: Literal["prompt", "label"] = "prompt"
    held: float = 0.2
    minutes: float | None = None
    detector: str | None = None

    def checked(self) -> "TransferOptions":
        """This one; InputError for what does not go together."""
        if self.stage == "finetune" and self.source is None:
            raise InputError("stage finetune needs the model to begin with: --from MODEL")
        if self.stage != "finetune" and self.source is not None:
            raise InputError(f"stage {self.stage} begins with a fresh model: leave out --from, or say --stage finetune")
        if self.stage != "finetune" and self.train != "whole":
            raise InputError(f"stage {self.stage} trains the whole model: --train {self.train} is for stage finetune")
        return self

    def words(self) -> tuple[str, ...]:
        """The same as options of the command."""
        words = ["--stage", self.stage]
        words += ["--from", self.source] if self.source else []
        words += ["--train", self.train] if self.train != "whole" else []
        words += ["--augment", self.augment] if self.augment else []
        words += [word for name in self.stems for word in ("--stem", name)]
        words += ["--by", self.by] if self.by != "prompt" else []
        words += ["--held", str(self.held)] if self.held != TransferOptions.held else []
        words += ["--stem-minutes", str(self.minutes)] if self.minutes is not None else []
        words += ["--detector", self.detector] if self.detector else []
        return tuple(words)


def train_transfer(job: Job, options: TransferOptions) -> None:
    """Trains on stems in the job's folder, resuming what is there, and leaves the best weights as its `model`.

    The job's data is a manifest or a folder, see `ussfast.data.stems.read_pieces`; of split test nothing is used.
    """
    options = options.checked()
    if job.start is not None:
        raise InputError("a run of 'train transfer' begins with --from MODEL: leave out --start")
    job = dataclasses.replace(job, command=("train", "transfer"), options=options.words())
    recipe = stage_recipe(job.stepped(load_transfer_recipe(job.source)), options)
    rate = recipe.model.sample_rate if options.source is None else model_rate(options.source)
    accelerator, target = job.processes(every_weight_used=options.train == "whole" and options.stage == "scratch")
    train, held = pools(job.data, recipe.license_classes, options, rate, accelerator.is_main_process)
    beginning = begin(recipe, train, options)
    if accelerator.is_main_process:
        for note in beginning.notes:
            print(note, flush=True)
    work = work_of(recipe, train, held, beginning, target, options)
    use = "ussfast separate FILE -m {model}"
    if beginning.asks and beginning.config is not None and hasattr(beginning.config, "prompts"):
        use += f" -p '{','.join(beginning.asks)}'"
    job = dataclasses.replace(job, use=use)
    carry_out(job, work, accelerator, used_items(train), work.finish, licences=licences(job.data, recipe, beginning))


def stage_recipe(recipe: TransferRecipe, options: TransferOptions) -> TransferRecipe:
    """The recipe with what its stage changes."""
    if options.augment is not None:
        recipe = recipe.changed("stems", augment=options.augment)
    if options.stage == "pretrain":
        if architecture_of(recipe.model) != "chimera":
            raise InputError(f"stage pretrain is for a chimera's embedding: recipe {recipe.name} is of another model")
        recipe = recipe.changed("objective", loss="deep_clustering")
    elif recipe.objective.loss == "deep_clustering":
        raise InputError("objective.loss deep_clustering trains an embedding alone: say --stage pretrain")
    return recipe


def pools(
    data: Path, licences: tuple[str, ...], options: TransferOptions, rate: int, main: bool
) -> tuple[StemPool, StemPool]:
    """Stems to learn from and to validate on; of a manifest those of these classes of licences, a folder has none."""
    pieces = read_pieces(data, options.stems or None, options.by)
    if not os.path.isdir(data):
        pieces = [piece for piece in pieces if {item.license_class for item in piece.items} <= set(licences)]
        if not pieces:
            known = ", ".join(licences)
            raise InputError(f"{data}: no piece has stems of the licences that the recipe takes ({known})")
    pieces = [piece for piece in pieces if piece.split != "test"] or pieces
    hidden = None if main else True
    pool = StemPool.load(pieces, rate, lambda rows: tqdm(rows, "decoding stems", disable=hidden))
    train, held = pool.held_out(options.held)
    return (train if options.minutes is None else train.shortened(60 * options.minutes)), held


def begin(recipe: TransferRecipe, train: StemPool, options: TransferOptions) -> Beginning:
    """What the stage begins with."""
    return fresh(recipe.model, train.names) if options.source is None else of_model(options.source, train)


def work_of(
    recipe: TransferRecipe, train: StemPool, held: StemPool, beginning: Beginning, device: torch.device,
    options: TransferOptions,
) -> Transfer:  # fmt: skip
    """The work of a recipe whose model is that of the beginning."""
    recipe = suited(dataclasses.replace(recipe, model=beginning.config))
    if beginning.order:
        return Transfer(recipe, train, held, beginning, device, options.train)
    if hasattr(beginning.config, "prompts"):
        return PromptTransfer(recipe, train, held, beginning, device, options.train)
    return VectorTransfer(recipe, train, held, beginning, device, options.train, options.detector)


def suited(recipe: TransferRecipe) -> TransferRecipe:
    """With loss snr where the model has not the heads that the recipe's is about."""
    heads = architecture_of(recipe.model) == "chimera" and recipe.model.embedding and recipe.model.masks
    if recipe.objective.loss == "chimera" and not heads:
        return recipe.changed("objective", loss="snr")
    return recipe


def used_items(pool: StemPool) -> list[Item]:
    """Of all pieces, for credits."""
    return [item for piece in pool.pieces for item in piece.items]


def licences(data: Path, recipe: TransferRecipe, beginning: Beginning) -> str:
    """What the model records of its licence."""
    folder, info = os.path.isdir(data), beginning.info
    stems = f"stems of {data.resolve().name}" if folder else f"{', '.join(recipe.license_classes)} stems"
    return f"{info.license}; fine-tuned on {stems}" if info else f"weights of a model trained on {stems}"
