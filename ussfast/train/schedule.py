"""Learning rates over a run."""

import math

import torch
from torch import Tensor

from ussfast.train.recipe import OptimConfig


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of a step, counted from 0; it depends on the step and the recipe alone, but for what `Plateau`
    makes of it.

    Source of "wsd" (warm-up, stable, decay): Hu et al., "MiniCPM", 2024.
    """
    if step < optim.warmup:
        return optim.lr * step / optim.warmup
    if optim.schedule == "wsd":
        falling = max(1, round(optim.decay * optim.steps))
        return optim.lr * min(1.0, max(0, optim.steps - step) / falling)
    if optim.schedule == "plateau":
        return optim.lr
    done = min(1.0, (step - optim.warmup) / max(1, optim.steps - optim.warmup))
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))


class Plateau:
    """A factor of the learning rate, halved whenever the mean loss over the last `window` steps has had no new minimum
    for `patience` steps.

    Args:
        window, patience: in steps.
    """

    def __init__(self, window: int, patience: int):
        self.window, self.patience = window, patience
        self.factor, self._lowest, self._since = 1.0, math.inf, 0
        self._losses: list[float] = []

    def update(self, loss: float) -> None:
        """Takes the loss of the next step; one that is not finite is left out."""
        if not math.isfinite(loss):
            return
        self._losses = [*self._losses, loss][-self.window :]
        if len(self._losses) < self.window:
            return
        mean = math.fsum(self._losses) / self.window
        self._since += 1
        if mean < self._lowest:
            self._lowest, self._since = mean, 0
        elif self._since >= self.patience:
            self.factor, self._since = self.factor / 2, 0

    def state(self) -> Tensor:
        """All of it, float64: factor, lowest mean, steps since, and the losses in the window."""
        return torch.tensor([self.factor, self._lowest, self._since, *self._losses], dtype=torch.float64)

    def load(self, state: Tensor) -> None:
        self.factor, self._lowest, since, *self._losses = state.tolist()
        self._since = int(since)
