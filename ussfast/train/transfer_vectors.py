"""Training a model that separates by a detector's vectors on stems: each has its own vector, as an example clip."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ussfast.data.stems import StemPool
from ussfast.errors import InputError
from ussfast.prompts.bank import Prompt
from ussfast.separator import Separator
from ussfast.train.stem_mixing import Stems
from ussfast.train.transfer import Transfer
from ussfast.train.transfer_parts import Part
from ussfast.train.transfer_recipe import TransferRecipe
from ussfast.train.transfer_start import Beginning
from ussfast.tuning.joint import BANK, copy_beside


class VectorTransfer(Transfer):
    """What `Work` asks for, of a model whose prompts are vectors; arguments as for `Transfer`.

    detector: model directory of what makes them; by default the one that the model carries.
    """

    def __init__(
        self, recipe: TransferRecipe, train: StemPool, held: StemPool, beginning: Beginning, device: torch.device,
        part: Part = "whole", detector: str | None = None,
    ):  # fmt: skip
        if recipe.objective.permutation not in ("auto", "fixed"):
            raise InputError("a model with prompts learns from stems without permutations")
        super().__init__(recipe, train, held, beginning, device, part)
        info = beginning.info
        assert info is not None and info.path is not None  # such a model is never a fresh one
        self.source = info.path
        separator = Separator(str(info.path), device="cpu", detector=detector)
        self.prompts: list[Prompt] = []
        for row, name in enumerate(train.names):
            clips = [audio[row].numpy() for audio in train.audio]
            self.prompts.append(separator.prompt_of(name, clips, train.rate))
        self.vectors = torch.stack([prompt.vector for prompt in self.prompts]).to(device)

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        self.order = list(range(len(names)))
        return names

    def asked(self, model: object) -> Tensor:
        return self.vectors

    def batch(self) -> Stems:
        """Mixtures of two stems or more, one of which is asked for."""
        config, rng, every = self.recipe.stems, self.rng, len(self.mixer.pool.names)
        some = int(rng.integers(2, min(config.most, every) + 1))
        chosen = np.stack([rng.permutation(every)[:some] for _ in range(config.batch)])
        sources = self.mixer.draw(rng, config.batch, chosen).to(self.device)
        rows = self.vectors[torch.from_numpy(chosen[:, :1]).to(self.device)]
        return Stems(sources.sum(1), sources[:, :1], rows)

    def ordered(self) -> bool:
        return True

    def finish(self, directory: Path) -> None:
        """Puts the detector and the stems' prompts, in a bank, into the model's directory."""
        copy_beside(self.source, directory)
        made = Separator(str(directory), device="cpu")
        for prompt in self.prompts:
            made.prompts.add(prompt)
        made.save_prompts(directory / BANK, clips=False)
