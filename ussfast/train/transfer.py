"""Training on stems: what comes out of mixtures of them is compared with them.

Sources: Luo, Chen, Hershey, Le Roux and Mesgarani, "Deep clustering and conventional networks for music separation:
Stronger together", ICASSP 2017 (both heads of a chimera at once); Seetharaman, Wichern, Pardo and Le Roux, "AutoClip:
adaptive gradient clipping for source separation networks", MLSP 2020 (how fast it goes).
"""

import hashlib
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ussfast.data.stems import StemPool
from ussfast.errors import InputError
from ussfast.evaluate.metrics import improvements
from ussfast.models import Network, SpectralModel
from ussfast.train.log import EMBEDDING, SI_SDR
from ussfast.train.stem_losses import StemObjective, clustering_fit
from ussfast.train.stem_mixing import StemMixer, Stems, excerpts_of
from ussfast.train.transfer_parts import Part, choose, still
from ussfast.train.transfer_recipe import TransferRecipe
from ussfast.train.transfer_start import Beginning
from ussfast.train.work import Work

MOST_UNORDERED = 7  # sources without an order, of which all permutations are tried
TOGETHER = 4  # mixtures that are validated at once
FREE = "source"  # what each is called where there is no order


class Transfer(Work):
    """What `Work` asks for, of a model without prompts.

    Args:
        recipe: its model is that of `beginning`.
        train, held: stems to learn from, and to validate on: SI-SDR improvement over the mixture on excerpts that do
            not overlap, or, of an embedding alone, how well it tells sources apart.
        beginning: what it begins with. part: what of it learns.
    Raises:
        InputError: a model that has no such part (when it is built), more sources without an order than can be
            permuted, or held stems in which no place has all of them.
    """

    recipe: TransferRecipe

    def __init__(
        self, recipe: TransferRecipe, train: StemPool, held: StemPool, beginning: Beginning,
        device: torch.device, part: Part = "whole",
    ):  # fmt: skip
        self.recipe, self.beginning, self.part, self.device = recipe.checked(), beginning, part, device
        self.mixer = StemMixer(train, recipe.stems)
        self.measure = EMBEDDING if recipe.objective.loss == "deep_clustering" else SI_SDR
        self.order = list(beginning.order)
        self.excerpts = excerpts_of(held, recipe.stems.seconds, recipe.run.validate_items)
        if not len(self.excerpts):
            raise InputError(
                f"nowhere in the part that is held out are all stems heard for {recipe.stems.seconds / 4:.2g} s: "
                "longer stems are needed, or pieces of split dev"
            )
        self.names = self._names(train.names)
        self.dev_set: str | None = hashlib.blake2b(self.excerpts.numpy().tobytes(), digest_size=16).hexdigest()

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """What the sources of a validation are called, in the model's order."""
        labels: tuple[str, ...] = self.recipe.model.labels
        if not labels and len(names) > MOST_UNORDERED:
            raise InputError(
                f"the model's sources have no order, and {len(names)} of them cannot all be tried: "
                f"{MOST_UNORDERED} at most"
            )
        return labels or (FREE,) * len(names)

    def model(self) -> SpectralModel:
        model = self.beginning.build()
        choose(model, self.part)
        return model

    def mode(self, model: Network) -> None:
        still(model, self.part)

    def objective(self, model: Network) -> nn.Module:
        narrow = self.recipe.run.precision == "bf16"
        return StemObjective(cast(SpectralModel, model), self.recipe.objective, self.ordered(), narrow)

    def ordered(self) -> bool:
        """Whether each source that comes out is known to be one of the stems."""
        return bool(self.recipe.model.labels)

    def batch(self) -> Any:
        return self.mixer.batch(self.rng, self.order, self.device)

    def size(self, batch: Any) -> int:
        return len(batch.mixture)

    def asked(self, model: SpectralModel) -> Tensor | None:
        """Prompt rows of all sources; None for models without."""
        return None

    def mixed(self, references: Tensor) -> Tensor:
        """The mixtures that excerpts are validated in."""
        return references.sum(1)

    def finish(self, directory: Path) -> None:
        """Puts what else belongs to the model into its directory."""

    @torch.no_grad()
    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        """(name, figure) of every source of every excerpt, or of the excerpt."""
        model, found = cast(SpectralModel, model).eval(), list[tuple[str, float]]()
        rows = self.asked(model)
        for references in self.excerpts[rank::count].split(TOGETHER):
            references = references[:, self.order].to(self.device)
            mixture = self.mixed(references)
            if self.measure is EMBEDDING:
                found += [("fit", fit) for fit in clustering_fit(cast(Any, model), Stems(mixture, references))]
                continue
            estimates = model.separate(mixture, rows).float().cpu().numpy()
            for own in zip(mixture.cpu().numpy(), estimates, references.cpu().numpy(), strict=True):
                values = improvements(*own, self.names)
                found += [(name, value) for name, value in zip(self.names, values, strict=True) if value is not None]
        return found

    def means(self, scores: list[Any]) -> dict[str, float]:
        """Of each source over the excerpts, by names; sources without an order are one."""
        found: dict[str, list[float]] = {name: [] for name in dict.fromkeys(self.names)}
        for name, value in scores:
            found.setdefault(name, []).append(value)
        return {name: float(np.mean(values)) for name, values in found.items() if values}
