"""Training a model that separates by prompts on stems: these are asked for as users do, and what the model could do
before is asked for, too, with its own old results as targets.

Sources: Li and Hoiem, "Learning without forgetting", ECCV 2016 (old results as targets, on new data).
"""

from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ussfast.data.stems import StemPool
from ussfast.errors import InputError
from ussfast.models import Network, SpectralModel
from ussfast.ops import use_reference
from ussfast.ops._op import uses_reference
from ussfast.train.mixing import Batch
from ussfast.train.objective import Objective, prompt_rows
from ussfast.train.recipe import LossConfig
from ussfast.train.transfer import Transfer
from ussfast.train.transfer_parts import Part
from ussfast.train.transfer_recipe import TransferRecipe
from ussfast.train.transfer_start import Beginning
from ussfast.tuning.bundled import backgrounds

NOTHING_DB = -30.0  # below the mixture: what the old model gives is nothing then
LEVELS_DB = (-12.0, 3.0)  # of a background, beside the sum of stems
ALONE = 0.15  # share of batches of one stem each


class PromptTransfer(Transfer):
    """What `Work` asks for, of a model with class prompts; arguments as for `Transfer`."""

    def __init__(
        self, recipe: TransferRecipe, train: StemPool, held: StemPool, beginning: Beginning,
        device: torch.device, part: Part = "whole",
    ):  # fmt: skip
        if recipe.objective.loss != "snr" or recipe.objective.permutation not in ("auto", "fixed"):
            raise InputError("a model with prompts learns from stems by objective.loss snr, without permutations")
        if len(set(beginning.asks)) < len(beginning.asks):
            raise InputError(f"two stems would be one prompt: {', '.join(beginning.asks)}: rename one of them")
        super().__init__(recipe, train, held, beginning, device, part)
        self.background = [torch.from_numpy(sound.audio) for sound in backgrounds(train.rate)]
        self.teacher = self._untouched() if recipe.stems.keep and beginning.info else None
        # A prompt that learns on is not kept as it was.
        self.kept = [name for name in beginning.config.prompts if name not in beginning.asks]

    def _names(self, names: tuple[str, ...]) -> tuple[str, ...]:
        self.order = list(range(len(names)))
        return self.beginning.asks

    def _untouched(self) -> SpectralModel:
        return self.beginning.build().to(self.device).eval().requires_grad_(False)

    def asked(self, model: SpectralModel) -> Tensor:
        return prompt_rows(model, [self.beginning.asks])[0]

    def objective(self, model: Network) -> nn.Module:
        loss = LossConfig(snr_max=self.recipe.objective.snr_max, silence="mixture")
        return Objective(cast(SpectralModel, model), loss, bfloat16=self.recipe.run.precision == "bf16")

    def size(self, batch: Batch) -> int:
        return len(batch.prompts)

    def batch(self) -> Batch:
        """Mixtures of as many stems each, all of which are asked for, at times another one, too; then those for which
        the old model says what is to come out."""
        config, rng, every = self.recipe.stems, self.rng, len(self.mixer.pool.names)
        most = min(config.most, every)
        some = 1 if rng.random() < ALONE else int(rng.integers(min(2, most), most + 1))
        more = some < every and rng.random() < config.absent
        chosen = np.stack([rng.permutation(every)[: some + more] for _ in range(config.batch)])
        references = self.mixer.draw(rng, config.batch, chosen[:, :some]).to(self.device)
        mixture = references.sum(1) + self._beside(references.sum(1))
        if more:
            references = torch.cat((references, references.new_zeros(len(references), 1, references.shape[2])), 1)
        prompts = [tuple(self.beginning.asks[i] for i in row) for row in chosen]
        asked = some + more
        if self.teacher is not None and len(self.kept) >= asked:
            old = self._taught(self.teacher, mixture[: config.keep], asked)
            mixture, references = torch.cat((mixture, old[0])), torch.cat((references, old[1]))
            prompts += old[2]
        return Batch(mixture, references, prompts, references.abs().amax(-1) == 0)

    def _beside(self, stems: Tensor) -> Tensor:
        """Backgrounds for the rows of [batch, samples], zeros where there is none."""
        rng, made = self.rng, torch.zeros_like(stems)
        for row, own in enumerate(stems):
            if rng.random() < self.recipe.stems.background:
                level = 10 ** (rng.uniform(*LEVELS_DB) / 20)
                made[row] = self._sound(len(own)) * (level * own.square().mean().sqrt())
        return made

    def _sound(self, samples: int) -> Tensor:
        """One of the backgrounds, over and over, from some place in it on; its root mean square is 1."""
        sound = self.background[int(self.rng.integers(len(self.background)))]
        at = int(self.rng.integers(len(sound)))
        part = sound.repeat(-(-samples // len(sound)) + 1)[at : at + samples].to(self.device)
        return part / part.square().mean().sqrt().clamp(min=1e-6)

    @torch.no_grad()
    def _taught(
        self, teacher: SpectralModel, mixture: Tensor, asked: int
    ) -> tuple[Tensor, Tensor, list[tuple[str, ...]]]:
        """The mixtures, what the old model makes of them, and the old prompts that it was asked for."""
        prompts = [tuple(map(str, self.rng.choice(self.kept, asked, replace=False))) for _ in mixture]
        # As it will be asked in training: on kernels, or as plain PyTorch.
        native = getattr(teacher, "native_training", False) and not uses_reference()
        with use_reference(not native):
            made = teacher.separate(mixture, prompt_rows(teacher, prompts)).float()
        power, whole = made.square().sum(-1, keepdim=True), mixture.square().sum(-1)[:, None, None]
        return mixture, torch.where(power > 10 ** (NOTHING_DB / 10) * whole, made, 0.0), prompts
