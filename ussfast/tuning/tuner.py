"""The loop: one vector learns to ask a frozen model for the sound of a few clips.

Source: Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024 (arXiv 2311.18399); mixtures that
are held out, and that what does not depend on the prompt is computed once, are ours.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ussfast.tuning.config import TuneConfig
from ussfast.tuning.frozen import Ahead, Frozen
from ussfast.tuning.mixtures import Mixtures

TOGETHER = 8  # mixtures whose trunk is computed at once
FLOOR = 1e-3  # of the loss in dB: what is 30 dB below the sound counts little


@dataclass(frozen=True, eq=False)
class Progress:
    """After a step. loss: of its batch; sdr: on held mixtures, in dB, of the present vector, None between validations;
    before: of the vector it began with; best: the highest so far, and vector: what reached it, float32 [dim]."""

    step: int
    loss: float
    sdr: float | None
    before: float
    best: float
    vector: Tensor


@dataclass(frozen=True, eq=False)
class Tuned:
    """What came of it. vector: float32 [dim], the better one on held mixtures of what there was and what was tuned;
    before, after: SDR in dB of the two; kept: whether `vector` is the tuned one."""

    vector: Tensor
    before: float
    after: float
    kept: bool
    steps: int
    seconds: float


class Stored:
    """Mixtures with what is computed of them once, and the sounds in them."""

    def __init__(self, frozen: Frozen, mixtures: Mixtures, number: int):
        self.frozen, self.mixtures = frozen, mixtures
        self.parts: list[Ahead] = []
        self.sounds: list[Tensor] = []
        self._next = 0
        self.add(number)

    def _made(self, number: int) -> tuple[list[Ahead], list[Tensor]]:
        parts: list[Ahead] = []
        mixed, sounds = self.mixtures.draw(number)
        for some in mixed.split(TOGETHER):
            ahead = self.frozen.ahead(some)
            parts += [ahead.pick(torch.tensor([i])) for i in range(len(some))]
        return parts, list(sounds.to(self.frozen.device))

    def add(self, number: int) -> None:
        parts, sounds = self._made(number)
        self.parts += parts
        self.sounds += sounds

    def renew(self, number: int) -> None:
        """New ones in place of the oldest."""
        for part, sound in zip(*self._made(min(number, len(self.parts))), strict=True):
            self.parts[self._next], self.sounds[self._next] = part, sound
            self._next = (self._next + 1) % len(self.parts)

    def pick(self, rows: list[int]) -> tuple[Ahead, Tensor]:
        return Ahead.join([self.parts[i] for i in rows]), torch.stack([self.sounds[i] for i in rows])


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


def fitting(frozen: Frozen, mixtures: Mixtures, config: TuneConfig) -> int:
    """How many mixtures there is memory for, at least a batch."""
    one = frozen.ahead(mixtures.draw(1)[0])
    each = one.bytes + 4 * one.samples
    return max(config.batch, min(config.mixtures, int(config.memory * 2**20 / each)))


def tune(
    frozen: Frozen,
    start: Tensor,
    learned: Mixtures,
    held: Mixtures,
    config: TuneConfig,
    on_step: Callable[[Progress], None] | None = None,
    stopped: Callable[[], bool] = lambda: False,
) -> Tuned:
    """Tunes a vector that begins at `start` [dim].

    Args:
        learned, held: what it learns from, and what it is measured on.
        on_step: called after every step; what it raises ends the work.
        stopped: asked before every step.
    """
    begun = time.monotonic()
    stored = Stored(frozen, learned, fitting(frozen, learned, config))
    checks = Stored(frozen, held, config.held)
    scale = float(start.square().mean().sqrt().clamp(min=1e-6))
    # Its length is taken out, so that the same steps suit vectors of every model.
    vector = torch.nn.Parameter((start.detach().float() / scale).clone())
    optimizer = torch.optim.Adam([vector], lr=config.lr)
    before = _validated(frozen, vector.detach() * scale, checks)
    best, found, since, step = before, start.detach().float().clone(), 0, 0
    rng = learned.rng
    while not stopped() and since < config.patience:
        share = step / config.steps
        if config.minutes is not None:
            share = (time.monotonic() - begun) / (60 * config.minutes)
        if share >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min(1, (step + 1) / 10) * (0.5 + 0.5 * math.cos(math.pi * share))
        ahead, sounds = stored.pick(rng.choice(len(stored.parts), config.batch, replace=False).tolist())
        loss = loss_of(frozen.estimate(ahead, vector * scale), sounds, config.loss)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step, now = step + 1, None
        if step % config.every == 0:
            now = _validated(frozen, vector.detach() * scale, checks)
            since += 1
            if now > best:
                best, found, since = now, (vector.detach() * scale).clone(), 0
            stored.renew(config.renew)
        if on_step is not None:
            on_step(Progress(step, float(loss.detach()), now, before, best, found))
    kept = best >= before + config.gain
    chosen = found if kept else start.detach().float().clone()
    return Tuned(chosen, before, best, kept, step, time.monotonic() - begun)


@torch.no_grad()
def _validated(frozen: Frozen, vector: Tensor, checks: Stored) -> float:
    """Mean SDR in dB on held mixtures."""
    found = []
    for first in range(0, len(checks.parts), TOGETHER):
        rows = list(range(first, min(first + TOGETHER, len(checks.parts))))
        ahead, sounds = checks.pick(rows)
        found.append(sdr(frozen.estimate(ahead, vector), sounds))
    return float(torch.cat(found).mean())
