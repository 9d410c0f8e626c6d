"""What differs between kinds of training: everything that the trainer asks for is here."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ussfast.checkpoints.store import load_detector, load_model
from ussfast.errors import InputError
from ussfast.models import DETECTORS, Network, architecture_of, build_network
from ussfast.train.log import Measure
from ussfast.train.recipe import RunRecipe


class Work(ABC):
    """What is trained, on what, and how it is validated.

    device: where training happens. measure: what validation gives. dev_set: which data is validated on, see
    `dev_set.fingerprint`; None if there is none. rng: all of its memory between batches, but for what is in `state`;
    `begin` sets it.
    """

    recipe: RunRecipe
    device: torch.device
    measure: Measure
    dev_set: str | None
    rng: np.random.Generator

    def model(self) -> Network:
        """A freshly initialised one."""
        return build_network(self.recipe.model)

    def begin(self, model: Network, rng: np.random.Generator) -> None:
        """Called once, before the first batch, in every process with a generator of its own."""
        self.rng = rng

    def state(self) -> dict[str, Tensor]:
        """What else than `rng` a checkpoint has to keep of it, such as the weights of a teacher; names without points
        in front."""
        return {}

    def load(self, state: dict[str, Tensor]) -> None:  # noqa: B027, most works have nothing to take back
        """Takes back what `state` gave; called after `begin` when a run goes on."""

    def mode(self, model: Network) -> None:
        """Called before every step: what of the model is in training mode."""
        model.train()

    def stepped(self, model: Network, step: int) -> None:  # noqa: B027
        """Called after every step of the optimiser; step: how many there have been."""

    @abstractmethod
    def objective(self, model: Network) -> nn.Module:
        """The loss of a batch, a scalar, as a module around the model, so that processes can share its gradients."""

    @abstractmethod
    def batch(self) -> Any:
        """The next one, on `device`."""

    @abstractmethod
    def size(self, batch: Any) -> int:
        """How many mixtures or clips are in it, for speeds."""

    @abstractmethod
    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        """Of every `count`th thing that is validated on, from number `rank` on."""

    @abstractmethod
    def means(self, scores: list[Any]) -> dict[str, float]:
        """What a validation gives, by names, of the scores of all."""

    def mean(self, means: Mapping[str, float]) -> float:
        """The one number that says which weights are best: higher is better."""
        return float(np.mean(list(means.values())))

    def validate(self, model: Network) -> float:
        """`mean` of the whole dev set, in this process alone."""
        return self.mean(self.means(self.scores(model)))


def begun(recipe: RunRecipe, start: Any) -> Network:
    """The model in the directory `start`; InputError if it is not the one that the recipe trains."""
    load = load_detector if architecture_of(recipe.model) in DETECTORS else load_model
    model: Network = load(start)[0]
    if model.config != recipe.model:
        raise InputError(f"{start} is another model than that of recipe {recipe.name}: the run cannot begin with it")
    return model
