"""Learning rates over a run."""

import math

from ussfast.train.recipe import OptimConfig


def learning_rate(optim: OptimConfig, step: int) -> float:
    """The learning rate of a step, counted from 0; it depends on the step and the recipe alone.

    Source of "wsd" (warm-up, stable, decay): Hu et al., "MiniCPM", 2024.
    """
    if step < optim.warmup:
        return optim.lr * step / optim.warmup
    if optim.schedule == "wsd":
        falling = max(1, round(optim.decay * optim.steps))
        return optim.lr * min(1.0, max(0, optim.steps - step) / falling)
    done = min(1.0, (step - optim.warmup) / max(1, optim.steps - optim.warmup))
    return optim.lr * 0.5 * (1 + math.cos(math.pi * done))
