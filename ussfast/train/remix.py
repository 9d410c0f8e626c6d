"""Training from mixtures alone: Self-Remixing and RemixIT, with a warm-up by mixture invariant training if wanted.

Source: see `ussfast.train.remixing`.
"""

import copy
import hashlib
from itertools import permutations
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from ussfast.data.pool import AudioPool
from ussfast.data.stems import StemPool
from ussfast.errors import CheckpointError, InputError
from ussfast.evaluate.metrics import si_sdr
from ussfast.models import Network, SpectralModel, build
from ussfast.ops import use_reference
from ussfast.train.clip_sets import ClipSet
from ussfast.train.log import REMIXING, SI_SDR
from ussfast.train.remix_recipe import RemixConfig, RemixRecipe
from ussfast.train.remixing import (
    Remixed,
    Separate,
    Shuffle,
    consistent,
    draw_channels,
    draw_orders,
    mixit_loss,
    remixed_loss,
    taught,
)
from ussfast.train.work import Work

TEACHER_SEED = 1 << 20  # added to the run's: teacher and student begin with different weights
PARTS = ("mixed back", "like the teacher")


class RemixBatch(NamedTuple):
    """mixtures [batch, samples]; sources [batch, sources, samples] of the teacher and how they are remixed, or None
    and None in the warm-up."""

    mixtures: Tensor
    sources: Tensor | None
    shuffle: Shuffle | None


def separation(model: SpectralModel, narrow: bool = False) -> Separate:
    """The model as what takes waveforms apart."""
    return lambda audio: model.separate(audio, None, autocast=narrow).float()


class RemixLoss(nn.Module):
    """The loss of a batch as a module around the student, so that several processes can share its gradients."""

    def __init__(self, model: SpectralModel, config: RemixConfig, bfloat16: bool = False):
        super().__init__()
        self.model, self.config, self.narrow = model, config, bfloat16

    def forward(self, batch: RemixBatch) -> Tensor:
        student, config = separation(self.model, self.narrow), self.config
        with use_reference():
            if batch.sources is None or batch.shuffle is None:
                return mixit_loss(student, batch.mixtures, config.pairs(), config.student_consistency)
            return self.remixed(student, batch.mixtures, batch.sources, batch.shuffle).total

    def remixed(self, student: Separate, mixtures: Tensor, sources: Tensor, shuffle: Shuffle) -> Remixed:
        config = self.config
        return remixed_loss(
            student, mixtures, sources, shuffle, config.pairs(), *config.weights, config.student_consistency
        )


class Remix(Work):
    """What `Work` asks for, of a model without prompts that learns from mixtures.

    Args:
        recipe: of the student, which is what is exported.
        train: mixtures at the model's rate, on this process's training device.
        held: mixtures to validate on, for the loss; None without any.
        stems: of mixtures to validate on, for SI-SDR, in place of `held`; no others are ever asked for.
        teacher: what the teacher begins with; None for weights at random, other than the student's.
    Raises:
        InputError: nothing but silence to train or validate on, more stems than outputs, a teacher of another
            configuration.
    """

    recipe: RemixRecipe

    def __init__(
        self, recipe: RemixRecipe, train: AudioPool, held: AudioPool | None = None, stems: StemPool | None = None,
        teacher: SpectralModel | None = None,
    ):  # fmt: skip
        self.recipe, self.device = recipe, train.samples.device
        self.samples = round(recipe.remix.seconds * recipe.model.sample_rate)
        self.mixtures = ClipSet(train, [None] * len(train.items))
        if None not in self.mixtures.by_label:
            raise InputError("the mixtures to train on are silent throughout")
        if teacher is not None and teacher.config != recipe.model:
            raise InputError(f"the teacher is another model than that of recipe {recipe.name}")
        self._given = teacher
        self.dev, self.names = self._references(stems)
        if self.dev is None and held is not None:
            self.dev = self._held(held)
        self.measure = SI_SDR if self.names else REMIXING
        self.chooses = bool(self.names)  # what comes back best may have been taken apart least
        self.dev_set = None if self.dev is None else hashlib.blake2b(self.dev.numpy().tobytes()).hexdigest()[:32]
        self.step = 0

    def _references(self, stems: StemPool | None) -> tuple[Tensor | None, tuple[str, ...]]:
        """[mixtures, sources, samples] that are spread evenly over what there is, and the sources' names."""
        if stems is None:
            return None, ()
        if len(stems.names) > self.recipe.model.sources:
            raise InputError(
                f"there are {len(stems.names)} stems to validate on, and the model has {self.recipe.model.sources} "
                "outputs only"
            )
        found = stems.excerpts(self.samples)
        if not len(found):
            raise InputError(
                f"the stems to validate on have no {self.recipe.remix.seconds:g} s in which all of "
                f"{', '.join(stems.names)} are heard"
            )
        return _spread(found, self.recipe.run.validate_items), stems.names

    def _held(self, pool: AudioPool) -> Tensor | None:
        """[mixtures, samples]: the loudest part of each; None of fewer than two, which cannot be remixed."""
        clips = ClipSet(pool, [None] * len(pool.items))
        own = [int(i) for i in clips.by_label.get(None, ())]
        if len(own) < 2:
            return None
        chosen = _spread(torch.tensor(own), 2 * max(1, self.recipe.run.validate_items // 2)).tolist()
        offsets = np.array([clips.loudest(i, self.samples) for i in chosen])
        return pool.crops(np.array(chosen), offsets, self.samples).cpu()

    def begin(self, model: Network, rng: np.random.Generator) -> None:
        super().begin(model, rng)
        self.teacher = self._given
        if self.teacher is None:
            with torch.random.fork_rng(devices=[]):  # the same in every process
                torch.manual_seed(TEACHER_SEED + self.recipe.run.seed % (1 << 40))
                self.teacher = build(self.recipe.model)
        self.teacher = copy.deepcopy(self.teacher).to(self.device).eval().requires_grad_(False)

    def objective(self, model: Network) -> nn.Module:
        return RemixLoss(cast(SpectralModel, model), self.recipe.remix, self.recipe.run.precision == "bf16")

    @property
    def warming_up(self) -> bool:
        return self.step < self.recipe.remix.warmup.steps

    def batch(self) -> RemixBatch:
        config, clips = self.recipe.remix, self.mixtures
        places = [clips.pick(self.rng, None, self.samples) for _ in range(config.batch)]
        items, offsets = np.array(places).T
        mixtures = clips.pool.crops(items, offsets, self.samples)
        if self.warming_up:
            return RemixBatch(mixtures, None, None)
        assert self.teacher is not None
        sources = self._taught(self.teacher, mixtures)
        return RemixBatch(mixtures, sources, self._shuffle(self.rng, len(mixtures), sources.shape[1]))

    def _taught(self, teacher: SpectralModel, mixtures: Tensor) -> Tensor:
        return taught(separation(teacher), mixtures, self.recipe.sources, self.recipe.remix.teacher_consistency)

    def _shuffle(self, rng: np.random.Generator, batch: int, sources: int) -> Shuffle:
        config = self.recipe.remix
        orders = draw_orders(rng, batch, sources, config.constrained)
        channels = draw_channels(rng, batch, sources, config.keep_last) if config.channel_shuffle else None
        return Shuffle(orders, channels)

    def size(self, batch: RemixBatch) -> int:
        return len(batch.mixtures)

    def stepped(self, model: Network, step: int) -> None:
        """The teacher follows; at the end of the warm-up it takes the student's weights."""
        self.step, config = step, self.recipe.remix.teacher
        since = step - self.recipe.remix.warmup.steps
        if since < 0:
            return
        if since == 0 or config.update == "copy":
            self._follow(model, 0.0)
        elif config.update == "step":
            self._follow(model, config.weight ** (1 / config.epoch_steps))
        elif config.update == "epoch" and since % config.epoch_steps == 0:
            self._follow(model, config.weight)

    @torch.no_grad()
    def _follow(self, model: Network, weight: float) -> None:
        assert self.teacher is not None
        student = model.state_dict()
        for name, value in self.teacher.state_dict().items():
            if value.is_floating_point():
                value.lerp_(student[name], 1 - weight)
            else:
                value.copy_(student[name])

    def state(self) -> dict[str, Tensor]:
        assert self.teacher is not None
        own = {f"teacher.{name}": value for name, value in self.teacher.state_dict().items()}
        return own | {"step": torch.tensor(self.step)}

    def load(self, state: dict[str, Tensor]) -> None:
        assert self.teacher is not None
        if "step" not in state:
            raise CheckpointError("the checkpoint has no teacher: it is of a run of another kind")
        self.step = int(state["step"])
        own = {k.removeprefix("teacher."): v for k, v in state.items() if k.startswith("teacher.")}
        self.teacher.load_state_dict(own)

    @torch.inference_mode()
    def scores(self, model: Network, rank: int = 0, count: int = 1) -> list[Any]:
        """(stem, SI-SDR improvement) of each stem, or, where there are none, the losses of each batch."""
        assert self.dev is not None
        student, size = cast(SpectralModel, model).eval(), self.recipe.remix.batch
        # The last batch has what is left over: of one mixture nothing could be remixed.
        parts = [self.dev[i * size : (i + 1) * size] for i in range(max(1, len(self.dev) // size))]
        parts[-1] = self.dev[(len(parts) - 1) * size :]
        measured = self._improvements if self.names else self._losses
        return [score for part in parts[rank::count] for score in measured(student, part.to(self.device))]

    def _improvements(self, model: SpectralModel, references: Tensor) -> list[tuple[str, float]]:
        mixtures = references.sum(1)
        found = separation(model)(mixtures)
        if self.recipe.remix.student_consistency:
            found = consistent(found, mixtures)
        rows = zip(*(x.float().cpu().numpy() for x in (mixtures, found, references)), strict=True)
        return [pair for row in rows for pair in zip(self.names, matched_improvements(*row), strict=True)]

    def _losses(self, model: SpectralModel, mixtures: Tensor) -> list[tuple[str, float]]:
        teacher = model if self.warming_up or self.teacher is None else self.teacher
        sources = self._taught(teacher, mixtures)
        shuffle = self._shuffle(np.random.default_rng(0), len(mixtures), sources.shape[1])
        loss = RemixLoss(model, self.recipe.remix).remixed(separation(model), mixtures, sources, shuffle)
        return list(zip(PARTS, (-float(loss.mixed), -float(loss.remixit)), strict=True))

    def means(self, scores: list[Any]) -> dict[str, float]:
        names = self.names or PARTS
        found = {name: [value for own, value in scores if own == name] for name in names}
        return {name: float(np.mean(values)) for name, values in found.items() if values}

    def mean(self, means: Any) -> float:
        """Of stems the plain mean; of losses the one that training has, so that lower is better there."""
        if self.names:
            return super().mean(means)
        remixit, mixed = self.recipe.remix.weights
        return (mixed * means[PARTS[0]] + remixit * means[PARTS[1]]) / (mixed + remixit)


def matched_improvements(mixture: np.ndarray, found: np.ndarray, references: np.ndarray) -> list[float]:
    """SI-SDR improvement in dB of each reference [sources, samples] by the outputs [outputs, samples] that fit best:
    nobody says which output is which, and those that are left over do not count."""
    scores = [[si_sdr(output, reference) for reference in references] for output in found]
    orders = permutations(range(len(found)), len(references))
    best = max(orders, key=lambda order: sum(scores[i][j] for j, i in enumerate(order)))
    return [scores[i][j] - si_sdr(mixture, references[j]) for j, i in enumerate(best)]


def _spread(rows: Tensor, most: int) -> Tensor:
    """Up to `most` rows, evenly over all."""
    count = min(most, len(rows))
    return rows[[int((k + 0.5) * len(rows) / count) for k in range(count)]]
