"""A running mean of a model's weights: smoother than the weights themselves, and what is validated and exported."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Ema:
    """Exponential moving average of the parameters of `model`, on their device and in their dtype, and of the running
    statistics of batch norms, which belong to the weights that they were measured with.

    Args:
        decay: 0 keeps a plain copy. Early on it is lower, min(decay, (1 + n) / (10 + n)) at step n, so that the random
            weights of the start are soon forgotten.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.decay = decay
        averaged: dict[str, Tensor] = dict(model.named_parameters())
        averaged |= {name: b for name, b in model.named_buffers() if name.endswith((".running_mean", ".running_var"))}
        self.names, self.live = list(averaged), list(averaged.values())
        self.mean: list[Tensor] = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Moves the mean towards the weights, after the optimiser's step number `step`, counted from 0."""
        torch._foreach_lerp_(self.mean, self.live, 1 - min(self.decay, (1 + step) / (10 + step)))

    def state(self) -> dict[str, Tensor]:
        """The means by their names in the model."""
        return dict(zip(self.names, self.mean, strict=True))

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Takes the mean from `state`; parameters that it does not have start anew at the weights."""
        for name, mean, live in zip(self.names, self.mean, self.live, strict=True):
            mean.copy_(state.get(name, live))

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Inside the `with` the model has the mean weights."""
        raw = [p.detach().clone() for p in self.live]
        try:
            self._write(self.mean)
            yield
        finally:
            self._write(raw)

    @torch.no_grad()
    def _write(self, values: list[Tensor]) -> None:
        for p, value in zip(self.live, values, strict=True):
            p.copy_(value)
