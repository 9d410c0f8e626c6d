"""Training a model that separates by prompts: dynamic mixing, validated by SI-SDR improvement."""

from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import nn

from ussfast.checkpoints.store import load_model
from ussfast.data.pool import AudioPool
from ussfast.errors import InputError
from ussfast.evaluate.dev import DevMixture
from ussfast.models import Network, SpectralModel, build
from ussfast.train.dev_set import fingerprint
from ussfast.train.initial import initialise
from ussfast.train.log import SI_SDR
from ussfast.train.mixing import Batch, Mixer
from ussfast.train.objective import Objective
from ussfast.train.recipe import Recipe
from ussfast.train.validation import means, source_scores
from ussfast.train.work import Work


class Separation(Work):
    """What `Work` asks for, by dynamic mixing.

    Args:
        recipe: model, mixing and loss.
        pool: training items at the model's rate, on this process's training device.
        dev: development mixtures to validate on; may be empty.
        init: model directory of which a new model takes what both have, see `ussfast.train.initial`.
    Raises (in `begin`, `model`):
        InputError: a recipe whose model takes no prompts, or too few equal ones; nothing in common with `init`.
    """

    measure = SI_SDR
    notes: list[str]

    def __init__(self, recipe: Recipe, pool: AudioPool, dev: list[DevMixture], init: Path | None = None):
        self.recipe: Recipe = recipe
        self.init, self.notes = init, []
        self.pool, self.dev = pool, dev
        self.device = pool.samples.device
        self.dev_set = fingerprint(dev)

    def model(self) -> SpectralModel:
        made = build(self.recipe.model)
        if self.init is not None:
            copied = initialise(made, load_model(self.init)[0], str(self.init))
            self.notes.append(f"from {self.init}: {copied}")
        return made

    def begin(self, model: Network, rng: np.random.Generator) -> None:
        recipe, model = self.recipe, cast(SpectralModel, model)
        if not model.prompt_names:
            raise InputError(f"recipe {recipe.name}: only models with prompts can be trained so far")
        self.mixer = Mixer(self.pool, recipe.mix, rng)
        told_apart = model.equal_prompts
        if told_apart is not None and self.mixer.most_equal > told_apart:
            raise InputError(
                f"recipe {recipe.name}: mixtures may have {self.mixer.most_equal} equal prompts, the model tells at "
                f"most {told_apart} apart: take a model with more, or prompt sets with fewer, of shares that sum to 1"
            )

    @property
    def rng(self) -> np.random.Generator:
        return self.mixer.rng

    @rng.setter
    def rng(self, rng: np.random.Generator) -> None:
        self.mixer.rng = rng

    def objective(self, model: Network) -> nn.Module:
        narrow = self.recipe.run.precision == "bf16"
        return Objective(cast(SpectralModel, model), self.recipe.loss, bfloat16=narrow)

    def batch(self) -> Batch:
        return self.mixer.batch()

    def size(self, batch: Batch) -> int:
        return len(batch.prompts)

    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        return source_scores(cast(SpectralModel, model), self.dev[rank::count], self.device)

    def means(self, scores: list[Any]) -> dict[str, float]:
        return means(scores)
