"""Dynamic mixing: which prompts stand together, which crops fill them, and how loud each is.

Source: the unified 2-4 source recipe of Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the shares
of prompt sets that are asked for outright and of aligned music are ours.
"""

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.train.data import AudioPool

STEMS = ("drums", "bass", "vocals", "other")
BACKGROUNDS = {"sfxbg": ("sfx",), "musicbg": STEMS}

FIRST = {"speech": 0.2, "sfx": 0.2, "sfxbg": 0.2, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.05)
# Probability of the next prompt after the row's prompt; 0 forbids the pair anywhere in one mixture.
NEXT: dict[str, dict[str, float]] = {
    "speech": {"speech": 0.4, "sfx": 0.1, "sfxbg": 0.2, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.025),
    "sfx": {"speech": 0.2, "sfx": 0.5, "sfxbg": 0.0, "musicbg": 0.2} | dict.fromkeys(STEMS, 0.025),
    "sfxbg": {"speech": 0.5, "sfx": 0.0, "sfxbg": 0.0, "musicbg": 0.4} | dict.fromkeys(STEMS, 0.025),
    "musicbg": {"speech": 0.33, "sfx": 0.33, "sfxbg": 0.33, "musicbg": 0.0} | dict.fromkeys(STEMS, 0.0),
} | {
    stem: {"speech": 0.0333, "sfx": 0.0333, "sfxbg": 0.0333, "musicbg": 0.0}
    | {other: 0.0 if other == stem else 0.3 for other in STEMS}
    for stem in STEMS
}
REPEATABLE = ("speech", "sfx")


@dataclass(frozen=True)
class PromptSet:
    prompts: tuple[str, ...]
    share: float


@dataclass(frozen=True)
class MixConfig:
    """seconds: crop length. rows: sources per batch (mixtures times prompts), so that every step costs the same.

    sets: prompt sets asked for outright with their shares; the remaining share draws chains from FIRST and NEXT.
    built_background: share of backgrounds summed from their parts instead of taken from their own pool.
    aligned: share of mixtures with music stems that take them from one song at one position.
    band_limit: share of mixtures limited to the lowest native band of their sources.
    dropout: share of batches in which one prompt that is not repeated is not asked for.
    """

    seconds: float = 2.5
    rows: int = 12
    sets: tuple[PromptSet, ...] = field(default=())
    built_background: float = 0.25
    aligned: float = 0.5
    band_limit: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        if self.seconds <= 0 or self.rows < 4 or sum(s.share for s in self.sets) > 1 + 1e-9:
            raise InputError(f"need seconds > 0, rows >= 4 and shares of sets of at most 1 together, got {self}")
        for s in self.sets:
            unknown = [prompt for prompt in s.prompts if prompt not in NEXT]
            if unknown or s.share < 0 or not 2 <= len(s.prompts) <= self.rows:
                raise InputError(
                    f"a prompt set needs 2 to {self.rows} of {', '.join(NEXT)}, and a share from 0 on, got {s}"
                )


@dataclass(frozen=True)
class Batch:
    """mixture [batch, samples], references [batch, sources, samples], prompts per item and source."""

    mixture: Tensor
    references: Tensor
    prompts: list[tuple[str, ...]]


def draw_chain(rng: np.random.Generator, count: int) -> tuple[str, ...]:
    """A chain of `count` prompts: each follows from the one before it, and none may be forbidden by an earlier one."""

    def pick(weights: dict[str, float]) -> str:
        total = sum(weights.values())
        return str(rng.choice(list(weights), p=[w / total for w in weights.values()]))

    while True:
        chain = [pick(FIRST)]
        for _ in range(100):
            if len(chain) == count:
                return tuple(chain)
            candidate = pick(NEXT[chain[-1]])
            taken = candidate in chain and candidate not in REPEATABLE
            if not taken and all(NEXT[earlier][candidate] > 0 for earlier in chain):
                chain.append(candidate)


@dataclass
class _Plan:
    """What to cut and how loud, one entry per crop; built on the host, carried out on the device in one go."""

    item: list[int] = field(default_factory=list)
    offset: list[int] = field(default_factory=list)
    gain: list[float] = field(default_factory=list)
    row: list[int] = field(default_factory=list)  # which source the crop is added to
    row_gain: list[float] = field(default_factory=list)  # one entry per source


class Mixer:
    """Draws batches; the whole of its memory is `rng`."""

    def __init__(self, pool: AudioPool, config: MixConfig, rng: np.random.Generator):
        self.pool, self.config, self.rng = pool, config, rng
        self.count = round(config.seconds * pool.rate)
        self.by_prompt: dict[str, np.ndarray] = {}
        for prompt in NEXT:
            self.by_prompt[prompt] = np.array([i for i, x in enumerate(pool.items) if x.prompt == prompt], np.int64)
        songs: dict[str, dict[str, int]] = {}
        for i, item in enumerate(pool.items):
            if item.song and item.prompt in STEMS:
                songs.setdefault(item.song, {})[item.prompt] = i
        self.songs = list(songs.values())
        empty = [p for p in NEXT if not len(self.by_prompt[p]) and p not in BACKGROUNDS]
        if empty:
            raise InputError(f"the manifest has no training items for the prompts {empty}")

    def batch(self) -> Batch:
        config, rng = self.config, self.rng
        drop = rng.random() < config.dropout
        shares = [s.share for s in config.sets]
        chosen = rng.choice(len(shares) + 1, p=[*shares, max(0.0, 1 - sum(shares))])
        fixed = config.sets[chosen].prompts if chosen < len(shares) else None
        sources = len(fixed) if fixed else int(rng.integers(2, 5))
        drop = drop and (fixed is None or any(fixed.count(p) == 1 for p in fixed))
        names = [fixed or self._chain(sources, drop) for _ in range(config.rows // (sources - drop))]
        plan, bands = _Plan(), []
        for item in names:
            bands.append(self._plan(item, plan))
        references = self._render(plan, bands, sources)
        mixture = references.sum(1)
        if drop:
            keep = []
            for item in names:
                lost = int(rng.choice([i for i, name in enumerate(item) if item.count(name) == 1]))
                keep.append([i for i in range(sources) if i != lost])
            at = torch.tensor(keep, device=references.device)
            references = references[torch.arange(len(keep), device=at.device)[:, None], at]
            names = [tuple(item[i] for i in kept) for item, kept in zip(names, keep, strict=True)]
        return Batch(mixture, references, names)

    def _chain(self, sources: int, drop: bool) -> tuple[str, ...]:
        while True:
            names = draw_chain(self.rng, sources)
            if not drop or any(names.count(p) == 1 for p in names):
                return names

    def _render(self, plan: _Plan, bands: list[float], sources: int) -> Tensor:
        """[batch, sources, samples] from a plan: cut, level, sum, level, limit the band."""
        device = self.pool.samples.device

        def column(values: list[float]) -> Tensor:
            return torch.tensor(values, device=device)[:, None]

        crops = _level(self.pool.crops(np.array(plan.item), np.array(plan.offset), self.count), column(plan.gain))
        rows = crops.new_zeros(len(plan.row_gain), self.count)
        rows.index_add_(0, torch.tensor(plan.row, device=device), crops)
        mixed = _level(rows, column(plan.row_gain)).unflatten(0, (-1, sources))
        if min(bands) < 1:
            spectrum = torch.fft.rfft(mixed)
            bins = torch.linspace(0, 1, spectrum.shape[-1], device=device)
            mixed = torch.fft.irfft(spectrum * (bins <= column(bands))[:, None], n=self.count)
        return mixed

    def _plan(self, names: tuple[str, ...], plan: _Plan) -> float:
        """Adds one mixture to the plan; returns its upper band edge as a share of the pool's."""
        rng = self.rng
        used: set[str] = set()
        song = None
        if self.songs and rng.random() < self.config.aligned and sum(n in STEMS for n in names) > 1:
            song = self.songs[rng.integers(len(self.songs))]
        place, rates = rng.random(), []  # one position for all aligned stems
        for name in names:
            row = len(plan.row_gain)
            plan.row_gain.append(self._gain(name))
            if song and name in song:
                parts = [(song[name], self._offset(song[name], place), 1.0)]
            elif name in BACKGROUNDS and self._build(name):
                count = int(rng.choice(4, p=[0.1, 0.4, 0.4, 0.1])) + 1
                kinds = BACKGROUNDS[name]
                of = [str(k) for k in rng.permutation(kinds)[:count]] if len(kinds) > 1 else [kinds[0]] * count
                parts = [(*self._pick(part, used), self._gain(part)) for part in of]
            else:
                parts = [(*self._pick(name, used), 1.0)]
            for item, offset, gain in parts:
                plan.item.append(item)
                plan.offset.append(offset)
                plan.gain.append(gain)
                plan.row.append(row)
                rates.append(self.pool.items[item].native_rate)
        limited = min(rates) < self.pool.rate and rng.random() < self.config.band_limit
        return min(rates) / self.pool.rate if limited else 1.0

    def _build(self, name: str) -> bool:
        return not len(self.by_prompt[name]) or self.rng.random() < self.config.built_background

    def _pick(self, name: str, used: set[str], tries: int = 8) -> tuple[int, int]:
        """(item, offset) of a crop that is not silent, from a group that the mixture does not have yet."""
        choices = self.by_prompt[name]
        for _ in range(tries):
            index = int(choices[self.rng.integers(len(choices))])
            offset = self._offset(index, self.rng.random())
            if self.pool.items[index].group not in used and self.pool.power(index, offset, self.count) > 1e-7:
                break
        used.add(self.pool.items[index].group)
        return index, offset

    def _offset(self, index: int, place: float) -> int:
        """At `place` (0..1) of what is possible; an item shorter than the crop lands whole at a random offset."""
        return round(place * (int(self.pool.length[index]) - self.count))

    def _gain(self, name: str) -> float:
        """-10..0 dB for speech and stems, -20..0 dB for the others, as a factor."""
        low = -10.0 if name == "speech" or name in STEMS else -20.0
        return float(10 ** (self.rng.uniform(low, 0.0) / 20))


def _level(x: Tensor, gain: Tensor) -> Tensor:
    """Rows at unit RMS times their gain; the floor keeps nearly silent rows nearly silent."""
    return x * (gain / x.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-4))
