"""Jumps of level inside a crop, the same for a mixture and all of its references."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

PLACES = (0.05, 0.95)  # of a crop: where jumps begin
RAMP_SECONDS = (0.05, 1.0)


@dataclass(frozen=True)
class Jump:
    """at: the last sample before it; ramp: samples until the level is `db` away, linear in dB, 1 for a step.

    db: None for silence up to `at`.
    """

    at: int
    ramp: int = 1
    db: float | None = None


def draw_jump(rng: np.random.Generator, most_db: float, count: int, rate: int) -> Jump:
    """A step, a ramp or silence at the start, one as often as the other, in a crop of `count` samples."""
    kind = rng.integers(3)
    at = int(rng.uniform(*PLACES) * count)
    if kind == 0:
        return Jump(at)
    db = float(rng.uniform(-most_db, most_db))
    return Jump(at, max(1, round(rng.uniform(*RAMP_SECONDS) * rate)) if kind == 1 else 1, db)


def jump_gains(jumps: Sequence[Jump], count: int, device: torch.device) -> Tensor:
    """[jumps, count]: factors on the samples."""

    def column(values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)[:, None]

    after = torch.arange(count, device=device) - column([j.at for j in jumps])
    there = (after / column([j.ramp for j in jumps])).clamp(0, 1)
    gains = 10 ** (there * column([j.db or 0.0 for j in jumps]) / 20)
    return gains.masked_fill((after <= 0) & (column([j.db is None for j in jumps]) > 0), 0.0)
