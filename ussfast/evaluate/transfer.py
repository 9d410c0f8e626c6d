"""`ussfast evaluate transfer`: is a model that was pre-trained on other sounds better on little data than a fresh one?

Pre-training with deep clustering, fine-tuning of the whole model or of its mask layer, and a model from scratch that
takes as many steps as both together; each under four conditions of augmentation.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from ussfast.checkpoints.store import load_model
from ussfast.data.stems import Piece, StemPool, read_pieces
from ussfast.errors import InputError
from ussfast.evaluate.metrics import audible, best_order, si_sdr
from ussfast.evaluate.transfer_cells import Cell
from ussfast.evaluate.transfer_store import Outcome, Store
from ussfast.models import SpectralModel
from ussfast.plain import Checked, Range

TOGETHER = 8  # excerpts that are separated at once

Say = Callable[[str], None]


@dataclass(frozen=True)
class StudyConfig(Checked):
    """samples: excerpts that are drawn from the held-out recordings; None takes all that do not overlap.
    seconds: of an excerpt. seed: of what is drawn for the test, the same in every cell.
    """

    pretrain_steps: Annotated[int, Range(1, 1e9)]
    finetune_steps: Annotated[int, Range(1, 1e9)]
    samples: Annotated[int, Range(1, 1e6)] | None = 1000
    seconds: Annotated[float, Range(0.1, 600)] = 5.0
    seed: Annotated[int, Range(0, 1 << 62)] = 0

    def steps(self, cell: Cell) -> int:
        """Of a run; a model from scratch takes as many as both stages of the others."""
        parts = {"pretrain": self.pretrain_steps, "scratch": self.pretrain_steps + self.finetune_steps}
        return parts.get(cell.kind, self.finetune_steps)


@dataclass(frozen=True)
class DataSet:
    """Recordings with stems. stems: names of those that are wanted, all of them if there are none. fingerprint: of
    names, splits and sizes of files.
    """

    name: str
    place: Path
    stems: tuple[str, ...]
    pieces: tuple[Piece, ...]
    fingerprint: str

    @classmethod
    def read(cls, name: str, place: Path, stems: tuple[str, ...] = ()) -> "DataSet":
        """Raises InputError as `read_pieces` does."""
        pieces = tuple(read_pieces(place, stems or None))
        facts = [
            (piece.name, piece.split, source, [(Path(file).name, Path(file).stat().st_size) for file in files])
            for piece in pieces
            for source, files in sorted(piece.files.items())
        ]
        return cls(name, place, stems, pieces, hashlib.sha256(repr(facts).encode()).hexdigest()[:16])

    def held_out(self, rate: int) -> StemPool:
        """What nothing is trained on: split test, without one dev, without either what training leaves out."""
        for split in ("test", "dev"):
            if own := [piece for piece in self.pieces if piece.split == split]:
                return StemPool.load(own, rate)
        return StemPool.load(list(self.pieces), rate).held_out()[1]


@dataclass(frozen=True)
class Trained:
    """What a run left. curve: step and score of every validation."""

    model: Path
    curve: tuple[tuple[int, float], ...]


class Train(Protocol):
    """Carries out the run of a cell in a folder, or goes on with it.

    data: of its stage. start: the model to begin with, None for a fresh one.
    Raises:
        Stopped: it did not come to its last step; the same call again goes on.
    """

    def __call__(self, cell: Cell, data: DataSet, folder: Path, steps: int, start: Path | None) -> Trained: ...


class Stopped(Exception):
    """A run ended before its last step."""


@dataclass(frozen=True)
class Found:
    """What there is of a study: cells that were asked for and are done."""

    config: StudyConfig
    recipe: str
    sets: Mapping[str, str]
    outcomes: Mapping[Cell, Outcome]


class Study:
    """The runs and their results in a folder. What is done is kept there, and not done again.

    Args:
        recipe: plain form, and `name`. rate: of its model.
        train: see `Train`; it is given here, since training stands on evaluation and not the other way round.
    Raises:
        InputError: a folder with results of another study.
    """

    def __init__(
        self, sets: Sequence[DataSet], config: StudyConfig, recipe: Mapping[str, Any], rate: int, folder: Path,
        train: Train, device: str | torch.device = "cpu",
    ):  # fmt: skip
        self.sets = {one.name: one for one in sets}
        if len(self.sets) != len(sets):
            raise InputError("two data sets of the study have one name")
        self.config, self.rate, self.train, self.device = config, rate, train, device
        self.recipe = str(recipe.get("name", "unnamed"))
        self.store = Store(folder, {"recipe": dict(recipe), **asdict(config)})
        self._pools: dict[str, StemPool] = {}
        self._mixture: dict[str, tuple[tuple[float | None, ...], ...]] = {}

    def run(self, cells: Sequence[Cell], say: Say = lambda line: None) -> Found:
        """Does what is not done yet, until a run stops before its last step; returns all cells that are done then.

        Raises:
            InputError: data that cannot be used, see `StemPool.load`.
        """
        for name in dict.fromkeys(cell.downstream for cell in cells if cell.downstream):
            next(excerpts_of(self._pool(self.sets[name]), self.config))  # before hours of work
        prints = {name: one.fingerprint for name, one in self.sets.items()}
        done: dict[Cell, Outcome] = {}
        stopped = False
        for number, cell in enumerate(cells, start=1):
            outcome = self.store.read(cell, prints)
            if outcome is None and not stopped:
                say(f"{number} of {len(cells)}: {cell.name}, {self.config.steps(cell)} steps")
                try:
                    outcome = self._outcome(cell)
                    self.store.write(cell, outcome)
                except Stopped as why:
                    stopped = True
                    say(str(why))
            if outcome is not None:
                done[cell] = outcome
        return Found(self.config, self.recipe, prints, done)

    def _outcome(self, cell: Cell) -> Outcome:
        used = [name for name in (cell.pretrain, cell.downstream) if name]
        data = self.sets[cell.downstream or used[0]]
        before = cell.before
        start = None if before is None else self.store.run(before) / "model"
        begun = time.monotonic()
        trained = self.train(cell, data, self.store.run(cell), self.config.steps(cell), start)
        seconds = time.monotonic() - begun
        model = load_model(trained.model)[0].to(self.device).eval()
        facts: dict[str, Any] = {
            "steps": self.config.steps(cell),
            "seconds": seconds,
            "data": {name: self.sets[name].fingerprint for name in used},
            "parameters": sum(p.numel() for p in model.parameters()),
            "validated": tuple(step for step, _ in trained.curve),
            "curve": tuple(round(value, 4) for _, value in trained.curve),
        }
        if cell.downstream is None:
            return Outcome(**facts)
        pool = self._pool(data)
        batches = excerpts_of(pool, self.config)
        scores = [row for batch in batches for row in scores_of(model, batch.to(self.device), pool.names)]
        return Outcome(**facts, sources=pool.names, scores=tuple(scores), mixture=self._unseparated(data))

    def _pool(self, data: DataSet) -> StemPool:
        """What is held out of a set, decoded once."""
        if data.name not in self._pools:
            self._pools[data.name] = data.held_out(self.rate)
        return self._pools[data.name]

    def _unseparated(self, data: DataSet) -> tuple[tuple[float | None, ...], ...]:
        """Scores of the mixtures, which are the same in every cell."""
        if data.name not in self._mixture:
            batches = excerpts_of(self._pool(data), self.config)
            self._mixture[data.name] = tuple(row for batch in batches for row in mixture_scores(batch))
        return self._mixture[data.name]


def excerpts_of(pool: StemPool, config: StudyConfig) -> Iterator[Tensor]:
    """[up to TOGETHER, sources, samples], as many as the config says. Raises InputError if there are none."""
    samples = round(config.seconds * pool.rate)
    if config.samples is None:
        found = pool.excerpts(samples)
        if not len(found):
            raise InputError(
                f"no held-out recording has {config.seconds:g} s in which every source sounds: take a lower --seconds"
            )
        yield from found.split(TOGETHER)
        return
    rng = np.random.default_rng(config.seed)
    for first in range(0, config.samples, TOGETHER):
        yield pool.draw(rng, min(TOGETHER, config.samples - first), samples)


@torch.inference_mode()
def scores_of(model: SpectralModel, sources: Tensor, names: tuple[str, ...]) -> tuple[tuple[float | None, ...], ...]:
    """SI-SDR in dB of each excerpt and source; None where the source is silent.

    Args:
        sources: [excerpts, sources, samples], whose sum is separated; names: of the sources.
    A model with labels has each source at its place; estimates of one without count in their best order.
    """
    mixtures = sources.sum(1)
    prompts = model.prompt_vectors(names) if model.prompt_names else None
    estimates = model.separate(mixtures, prompts).float()
    labels = tuple(getattr(model.config, "labels", ()) or ()) if prompts is None else names
    if labels and set(labels) != set(names):
        raise InputError(f"the model separates {', '.join(labels)}, and the data has {', '.join(names)}")
    if labels:
        estimates = estimates[:, [labels.index(name) for name in names]]
    return tuple(
        _row(estimate, reference, names if labels else ("any",) * len(names))
        for estimate, reference in zip(estimates.cpu().numpy(), sources.cpu().numpy(), strict=True)
    )


def mixture_scores(sources: Tensor) -> list[tuple[float | None, ...]]:
    """The same of the mixture itself as every estimate."""
    return [_row(np.repeat(one.sum(0, keepdims=True), len(one), 0), one) for one in sources.cpu().numpy()]


def _row(
    estimates: np.ndarray, references: np.ndarray, names: tuple[str, ...] | None = None
) -> tuple[float | None, ...]:
    order = list(range(len(references))) if names is None else best_order(estimates, references, names)
    return tuple(
        round(si_sdr(estimates[order[j]], reference), 4) if audible(reference) else None
        for j, reference in enumerate(references)
    )
