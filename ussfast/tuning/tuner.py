"""The loop: a vector learns to ask a model for the sound of a few clips, and others beside it, each without some of the
clips, show what that is good for.

Source: Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024 (arXiv 2311.18399). Folds, and
that what does not depend on the prompt is computed once, are ours.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ussfast.tuning.config import TuneConfig
from ussfast.tuning.frozen import Ahead
from ussfast.tuning.mixtures import Mixtures

TOGETHER = 8  # mixtures whose trunk is computed at once
FLOOR = 1e-3  # of the loss in dB: what is 30 dB below the sound counts little
LEAST = 4  # held mixtures of a fold
ALONE = 0.5  # of the way, which what a single clip teaches is trusted for: it says little about others of its kind
WIDTH = 64  # numbers of a vector that learning rates are meant for
TESTED_LR, TEST_STEPS = (1e-3, 0.3), 32  # between which a learning rate is looked for


class Learner(Protocol):
    """A model as prompts learn with it. weights: that learn too, or none."""

    weights: list[torch.nn.Parameter]

    @property
    def device(self) -> torch.device: ...
    def ahead(self, mixtures: Tensor) -> Ahead: ...
    def estimate(self, ahead: Ahead, prompt: Tensor) -> Tensor: ...


@dataclass(frozen=True, eq=False)
class Progress:
    """After a step. loss: of its batches; sdr: on held mixtures, in dB, None between validations; before: of the vector
    it began with; best: of the one to keep so far, vector: float32 [dim], and kept: whether that is a tuned one."""

    step: int
    loss: float
    sdr: float | None
    before: float
    best: float
    vector: Tensor
    kept: bool


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of it. vector: float32 [dim], the tuned one, or what there was where held mixtures speak against that;
    before, after: SDR in dB on these of the first and of `vector`; kept: whether that is the tuned one."""

    vector: Tensor
    before: float
    after: float
    kept: bool
    steps: int
    seconds: float


class Stored:
    """Mixtures with what is computed of them once, the sounds in them, and which sounds these are."""

    def __init__(self, learner: Learner, mixtures: Mixtures, number: int):
        self.learner, self.mixtures = learner, mixtures
        self.parts, self.sounds, self.which = self._made(number)
        self._next = 0

    def _made(self, number: int) -> tuple[list[Ahead], list[Tensor], list[int]]:
        parts: list[Ahead] = []
        mixed, sounds, which = self.mixtures.draw(number)
        for some in mixed.split(TOGETHER):
            ahead = self.learner.ahead(some)
            parts += [ahead.pick(torch.tensor([i])) for i in range(len(some))]
        return parts, list(sounds.to(self.learner.device)), which

    def renew(self, number: int) -> None:
        """New ones in place of the oldest."""
        for new in zip(*self._made(min(number, len(self.parts))), strict=True):
            self.parts[self._next], self.sounds[self._next], self.which[self._next] = new
            self._next = (self._next + 1) % len(self.parts)

    def pick(self, rows: Sequence[int]) -> tuple[Ahead, Tensor]:
        return Ahead.join([self.parts[i] for i in rows]), torch.stack([self.sounds[i] for i in rows])

    def draw(self, number: int, without: Sequence[int], rng: np.random.Generator) -> tuple[Ahead, Tensor]:
        """Some mixtures, none of the sounds `without`."""
        rows = [i for i, sound in enumerate(self.which) if sound not in without]
        return self.pick(rng.choice(rows, number, replace=len(rows) < number).tolist())

    @torch.no_grad()
    def sdrs(self, vector: Tensor) -> np.ndarray:
        """Of each, in dB."""
        found = []
        for first in range(0, len(self.parts), TOGETHER):
            ahead, sounds = self.pick(range(first, min(first + TOGETHER, len(self.parts))))
            found.append(sdr(self.learner.estimate(ahead, vector), sounds))
        return torch.cat(found).cpu().numpy()


def sdr(estimates: Tensor, sounds: Tensor) -> Tensor:
    """[mixtures] in dB."""
    error = (estimates - sounds).square().sum(-1) + 1e-9
    return 10 * torch.log10(sounds.square().sum(-1) / error + 1e-9)


def loss_of(estimates: Tensor, sounds: Tensor, kind: str) -> Tensor:
    """A scalar: the mean over mixtures, whatever their levels."""
    if kind == "l1":
        return ((estimates - sounds).abs().sum(-1) / sounds.abs().sum(-1).clamp(min=1e-6)).mean()
    power = sounds.square().sum(-1)
    return 10 * torch.log10(((estimates - sounds).square().sum(-1) + FLOOR * power) / power.clamp(min=1e-9)).mean()


def fitting(learner: Learner, mixtures: Mixtures, config: TuneConfig) -> int:
    """How many mixtures there is memory for, at least a batch."""
    one = learner.ahead(mixtures.draw(1)[0])
    each = one.bytes + 4 * one.samples
    return max(config.batch, min(config.mixtures, int(config.memory * 2**20 / each)))


class Tuner:
    """A vector that begins at `start` [dim], and those of the folds: what one step does to it, and how good it is then.

    Args:
        learned: what they learn from. held: what they are measured on, per fold. without: the sounds of `learned` that
            a fold does not learn from. With several folds, the vector that counts is another one, which learns from all
            sounds; with one, it is that of the fold.
        share: of the way from the start to what was learned, at which the vector to keep lies; all of it where weights
            learn along.
    """

    def __init__(
        self, learner: Learner, start: Tensor, learned: Mixtures, held: Sequence[Mixtures],
        without: Sequence[Sequence[int]], config: TuneConfig, share: float = 1.0,
    ):  # fmt: skip
        self.learner, self.config, self.rng = learner, config, learned.rng
        self.share = 1.0 if learner.weights else share
        # Per vector: the sounds that it does not learn from, and mixtures per step; folds only have to keep up.
        self.takes = [(without[0], config.batch)]
        if len(held) > 1:
            self.takes = [((), config.batch), *((some, max(1, config.batch // 4)) for some in without)]
        self.stored = Stored(learner, learned, fitting(learner, learned, config))
        number = max(LEAST, round(config.held / len(held)))
        self.checks = [Stored(learner, mixtures, number) for mixtures in held]
        self.start = self.found = start.detach().float().clone()
        # Its length is taken out, so that the same steps suit vectors of every model.
        self.scale = float(self.start.square().mean().sqrt().clamp(min=1e-6))
        self.vectors = self._fresh()
        self._first = self._highest = self._scores()
        self.before = self.best = float(self._first.mean())
        self.now, self.kept = self.before, False

    def _scores(self) -> np.ndarray:
        """SDR of the folds' vectors on what they did not learn from, in dB: of each fold, or each mixture of one."""
        vectors = self._asked()[-len(self.checks) :].unbind()
        found = [checks.sdrs(vector) for checks, vector in zip(self.checks, vectors, strict=True)]
        return np.array([each.mean() for each in found]) if len(found) > 1 else found[0]

    def _asked(self) -> Tensor:
        """[vectors, dim]: what they ask with."""
        learned = self.vectors.detach() * self.scale
        return learned if self.share == 1 else self.start + self.share * (learned - self.start)

    def _fresh(self) -> torch.nn.Parameter:
        return torch.nn.Parameter((self.start / self.scale).repeat(len(self.takes), 1))

    def loss(self, vectors: Tensor) -> float:
        """Of the vector that counts; gradients of all are added up on the way: one graph at a time is in memory."""
        losses = []
        for i, (without, number) in enumerate(self.takes):
            ahead, sounds = self.stored.draw(number, without, self.rng)
            loss = loss_of(self.learner.estimate(ahead, vectors[i] * self.scale), sounds, self.config.loss)
            loss.backward()
            losses.append(float(loss.detach()))
        return losses[0]

    def step(self, optimizer: torch.optim.Optimizer, factor: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * factor
        optimizer.zero_grad()
        loss = self.loss(self.vectors)
        optimizer.step()
        return loss

    def optimizer(self, lr: float) -> torch.optim.Adam:
        # Steps of all numbers at once add up in the layers behind them: the more numbers, the shorter.
        groups = [{"params": [self.vectors], "most": lr * math.sqrt(min(1.0, WIDTH / self.start.numel()))}]
        if self.learner.weights:
            groups.append({"params": self.learner.weights, "most": self.config.weights_lr})
        return torch.optim.Adam(groups, lr=lr)

    def validated(self) -> bool:
        """Whether the present vector is the one to keep: it has learned more than all before, and what was held out
        does not speak against it."""
        scores = self._scores()
        self.now = float(scores.mean())
        worse = any(self._worse(scores, than) for than in (self._first, self._highest))
        if self.now > self._highest.mean():
            self._highest = scores
        if not worse:
            self.best, self.kept = self.now, True
            self.found = self._asked()[0]
        return not worse

    def _worse(self, scores: np.ndarray, than: np.ndarray) -> bool:
        """By more than chance: a few clips say little about others, and tuning helps more often than not."""
        change = scores - than
        error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else 0.0
        return float(change.mean() + self.config.doubt * error) < 0


def find_lr(tuner: Tuner) -> float:
    """Where the loss falls fastest while the learning rate grows from step to step.

    Source: Smith, "Cyclical learning rates for training neural networks", WACV 2017.
    """
    low, high = TESTED_LR
    rates = np.geomspace(low, high, TEST_STEPS)
    optimizer, state = tuner.optimizer(1.0), tuner.rng.bit_generator.state
    losses = []
    for rate in rates:
        tuner.rng.bit_generator.state = state  # the same mixtures every time
        losses.append(tuner.step(optimizer, float(rate)))
    smooth = np.convolve(losses, np.ones(5) / 5, "valid")
    tuner.vectors = tuner._fresh()
    return float(rates[2 + int(np.gradient(smooth).argmin())])


def tune(
    tuner: Tuner, on_step: Callable[[Progress], None] | None = None, on_best: Callable[[], None] = lambda: None
) -> Tuned:
    """Runs it.

    Args:
        on_step: called after every step; what it raises ends the work. on_best: where weights are to be kept.
    """
    config, begun = tuner.config, time.monotonic()
    optimizer = tuner.optimizer(find_lr(tuner) if config.find_lr else config.lr)
    since = step = 0
    while since < config.patience:
        share = config.share(step, time.monotonic() - begun)
        if share >= 1:
            break
        loss = tuner.step(optimizer, min(1, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * share)))
        step, now = step + 1, None
        if step % config.every == 0:
            good = tuner.validated()
            now, since = tuner.now, 0 if good else since + 1
            if good:
                on_best()
            if config.renew:
                tuner.stored.renew(config.renew)
        if on_step is not None:
            on_step(Progress(step, loss, now, tuner.before, tuner.best, tuner.found, tuner.kept))
    return Tuned(tuner.found, tuner.before, tuner.best, tuner.kept, step, time.monotonic() - begun)
