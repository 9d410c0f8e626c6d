"""Mixtures of stems: drawn from a pool, changed as its recipe says."""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ussfast.data.stems import StemPool
from ussfast.train.augment import change_speed, samples_needed
from ussfast.train.transfer_recipe import StemMixConfig


class Stems(NamedTuple):
    """mixture [batch, samples] and references [batch, sources, samples], float32; rows: vectors [batch, sources, dim]
    that ask for these, of models that take some."""

    mixture: Tensor
    references: Tensor
    rows: Tensor | None = None


class StemMixer:
    """Draws stems of a pool; the caller's generator is all its memory."""

    def __init__(self, pool: StemPool, config: StemMixConfig):
        self.pool, self.config = pool, config
        self.samples = round(config.seconds * pool.rate)

    def draw(self, rng: np.random.Generator, count: int, chosen: np.ndarray | None = None) -> Tensor:
        """[count, sources, samples], changed; chosen: int [count, some], the sources of each that are wanted."""
        config, kind = self.config, self.config.augment
        apart = rng.random(count) < 0.5 if kind == "all" else np.full(count, kind == "incoherent")
        needed = self.samples
        if kind in ("stretch", "all"):
            needed = samples_needed(self.samples, config.stretch[0], self.pool.rate)
        elif kind == "pitch":
            needed = samples_needed(self.samples, 1.0, self.pool.rate)
        drawn = torch.empty(count, len(self.pool.names), needed)
        for coherent in (True, False):
            rows = np.flatnonzero(apart != coherent)
            if len(rows):
                drawn[torch.from_numpy(rows)] = self.pool.draw(rng, len(rows), needed, coherent)
        if chosen is not None:
            drawn = drawn[torch.arange(count)[:, None], torch.from_numpy(chosen)]
        return self._changed(rng, drawn)

    def _changed(self, rng: np.random.Generator, drawn: Tensor) -> Tensor:
        config, kind, (count, sources, _) = self.config, self.config.augment, drawn.shape
        if kind in ("none", "incoherent"):
            return drawn
        pitch, stretch = np.ones(count), np.ones(count)
        if kind in ("pitch", "all"):
            pitch = 2 ** (rng.uniform(-config.semitones, config.semitones, count) / 12)
        if kind in ("stretch", "all"):
            shortest, longest = np.log(config.stretch)
            stretch = np.exp(rng.uniform(shortest, longest, count))
        if kind == "all":  # what is untouched is made in no time, and sounds as it will
            pitch[rng.random(count) < 0.5] = 1.0
            stretch[rng.random(count) < 0.5] = 1.0
        each = (pitch.repeat(sources), stretch.repeat(sources))
        changed = change_speed(drawn.flatten(0, 1), each[0], each[1], self.pool.rate, self.samples)
        changed = changed.unflatten(0, (count, sources))
        if kind == "all" and config.gain_db:
            gains = 10 ** (rng.uniform(-config.gain_db, config.gain_db, (count, sources, 1)) / 20)
            changed = changed * torch.from_numpy(gains.astype(np.float32))
        return changed

    def batch(self, rng: np.random.Generator, order: list[int], device: torch.device) -> Stems:
        """Mixtures of all sources, in this order."""
        references = self.draw(rng, self.config.batch)[:, order].to(device)
        return Stems(references.sum(1), references)


def excerpts_of(pool: StemPool, seconds: float, most: int) -> Tensor:
    """Excerpts to validate on, float32 [excerpts, sources, samples]: up to `most`, evenly over those that do not
    overlap; shorter ones than wanted where no place of that length has all stems; none where there is no such."""
    for part in (1.0, 0.5, 0.25):
        found = pool.excerpts(round(part * seconds * pool.rate))
        if len(found):
            break
    if len(found) > most:
        found = found[torch.linspace(0, len(found) - 1, most).round().long()]
    return found
