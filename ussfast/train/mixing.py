"""Dynamic mixing: which prompts stand together, which crops fill them, and how loud each is.

Source: the unified 2-4 source recipe of Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025; the shares
of prompt sets that are asked for outright, of aligned music, of changed sound, of absent sources and of queries are
ours.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ussfast.data.pool import AudioPool
from ussfast.errors import InputError
from ussfast.train.again import ABSENT, draw_again, with_again
from ussfast.train.chains import BACKGROUNDS, NEXT, STEMS, absent_prompts, draw_chain
from ussfast.train.contrast import draw_pairs
from ussfast.train.jumps import draw_jump, jump_gains
from ussfast.train.mix_config import MixConfig
from ussfast.train.queries import QueryPicker
from ussfast.train.rendering import (
    Change,
    Crop,
    Plan,
    draw_colour,
    draw_edge,
    draw_room,
    draw_speed,
    draw_width,
    hit,
    render,
)


@dataclass(frozen=True)
class Batch:
    """mixture [batch, samples], references [batch, sources, samples], prompts per item and source.

    absent: bool [batch, sources], True where the mixture has nothing of the source and its reference is zero.
    queries: clips [asked, query samples] at unit RMS that stand for sources in place of their prompts, if any;
    asked: int64 [asked, 2], the item and the source that each clip stands for.
    pairs: clips [2 * kinds, query samples] as `draw_pairs` orders them, if any.
    """

    mixture: Tensor
    references: Tensor
    prompts: list[tuple[str, ...]]
    absent: Tensor
    queries: Tensor | None = None
    asked: Tensor | None = None
    pairs: Tensor | None = None


def _allows(names: tuple[str, ...], drop: bool, more: bool) -> bool:
    return (not drop or any(names.count(p) == 1 for p in names)) and (not more or bool(absent_prompts(names)))


class Mixer:
    """Draws batches; the whole of its memory is `rng`."""

    def __init__(self, pool: AudioPool, config: MixConfig, rng: np.random.Generator):
        self.pool, self.config, self.rng = pool, config, rng
        self.count = round(config.seconds * pool.rate)
        self.by_prompt: dict[str, np.ndarray] = {}
        for prompt in NEXT:
            self.by_prompt[prompt] = np.array([i for i, x in enumerate(pool.items) if x.prompt == prompt], np.int64)
        speech = self.by_prompt["speech"]
        self.full_band = speech[[pool.items[i].native_rate >= pool.rate for i in speech]]
        songs: dict[str, dict[str, int]] = {}
        for i, item in enumerate(pool.items):
            if item.song and item.prompt in STEMS:
                songs.setdefault(item.song, {})[item.prompt] = i
        self.songs = list(songs.values())
        self.picker = QueryPicker(pool, config.query_seconds, config.moved)
        empty = [p for p in NEXT if not len(self.by_prompt[p]) and p not in BACKGROUNDS]
        if empty:
            raise InputError(f"the manifest has no training items for the prompts {empty}")

    def batch(self) -> Batch:
        config, rng = self.config, self.rng
        drop = bool(rng.random() < config.dropout)
        more = hit(rng, config.absent)
        sources = self._sources()
        drop = drop and bool(self._sets(sources, drop, False))
        more = more and bool(self._sets(sources, drop, more))
        again = hit(rng, config.again)
        count = config.rows // (sources - drop + more + again)
        names = [self._names(sources, drop, more) for _ in range(count)]
        plan = Plan()
        edges = [self._plan(item, plan) for item in names]
        references = render(self.pool, plan, edges, self.count, rng)
        order = [self._order(item, drop, more) for item in names]
        prompts = [
            tuple(item[i] if i != ABSENT else str(rng.choice(absent_prompts(item))) for i in kept)
            for item, kept in zip(names, order, strict=True)
        ]
        silent = [self._silent(kept) for kept in order]
        for row, source in enumerate(silent):
            if source is not None:
                references[row, source] = 0
        self._jump(references)
        mixture = references.sum(1)
        missing = [[i in (ABSENT, gone) for i in kept] for kept, gone in zip(order, silent, strict=True)]
        absent = torch.tensor(missing, device=references.device)
        every = references
        if drop or more:
            at = torch.tensor(order, device=references.device)
            rows = torch.arange(count, device=references.device)[:, None]
            # ABSENT takes the last source, which then gives way to silence.
            references = references[rows, at].masked_fill_(absent[..., None], 0)
        queries, asked = self._queries(plan, order, prompts, sources)
        batch = Batch(mixture, references, prompts, absent, queries, asked, self._pairs())
        if again:
            present = [[i for i in kept if i not in (ABSENT, gone)] for kept, gone in zip(order, silent, strict=True)]
            found = draw_again(self.picker, plan, present, names, rng)
            if found:
                return with_again(batch, found, every, self.picker, config.augment, config.any_band, rng)
        return batch

    @property
    def most_equal(self) -> int:
        """Equal prompts that a mixture may have."""
        counts = [max(map(s.prompts.count, s.prompts)) for s in self.config.sets if s.share > 0]
        chains = sum(s.share for s in self.config.sets) < 1 - 1e-9
        return max([*counts, 4] if chains else counts)

    def _sources(self) -> int:
        """How many sources the mixtures of the next batch have."""
        shares = [s.share for s in self.config.sets]
        chosen = self.rng.choice(len(shares) + 1, p=[*shares, max(0.0, 1 - sum(shares))])
        return len(self.config.sets[chosen].prompts) if chosen < len(shares) else int(self.rng.integers(2, 5))

    def _sets(self, sources: int, drop: bool, more: bool) -> dict[tuple[str, ...] | None, float]:
        """Sets of so many sources that may lose a prompt, or get an absent one, and their shares; None for chains."""
        found: dict[tuple[str, ...] | None, float] = {}
        for s in self.config.sets:
            if len(s.prompts) == sources and s.share > 0 and _allows(s.prompts, drop, more):
                found[s.prompts] = found.get(s.prompts, 0.0) + s.share
        rest = 1 - sum(s.share for s in self.config.sets)
        if rest > 1e-9 and 2 <= sources <= 4:
            found[None] = rest / 3
        return found

    def _names(self, sources: int, drop: bool, more: bool) -> tuple[str, ...]:
        """The prompts of one mixture."""
        sets = self._sets(sources, drop, more)
        shares = np.array(list(sets.values()))
        names = list(sets)[self.rng.choice(len(sets), p=shares / shares.sum()) if len(sets) > 1 else 0]
        while names is None:
            chain = draw_chain(self.rng, sources)
            names = chain if _allows(chain, drop, more) else None
        return names

    def _order(self, names: tuple[str, ...], drop: bool, more: bool) -> list[int]:
        """The sources asked for, by their number in the mixture or ABSENT."""
        kept = list(range(len(names)))
        if drop:
            kept.remove(int(self.rng.choice([i for i, name in enumerate(names) if names.count(name) == 1])))
        if more:
            kept.insert(int(self.rng.integers(len(kept) + 1)), ABSENT)
        return kept

    def _silent(self, kept: list[int]) -> int | None:
        """The source that an item is asked for and loses, if any."""
        there = [i for i in kept if i != ABSENT]
        return int(self.rng.choice(there)) if len(there) > 1 and hit(self.rng, self.config.silence) else None

    def _jump(self, references: Tensor) -> None:
        """Changes the level of some mixtures within the crop, in place."""
        rows = [row for row in range(len(references)) if hit(self.rng, self.config.level_jump)]
        if rows:
            jumps = [draw_jump(self.rng, self.config.jump_db, self.count, self.pool.rate) for _ in rows]
            gains = jump_gains(jumps, self.count, references.device)
            references[torch.tensor(rows, device=references.device)] *= gains[:, None]

    def _queries(
        self, plan: Plan, order: list[list[int]], prompts: list[tuple[str, ...]], sources: int
    ) -> tuple[Tensor, Tensor] | tuple[None, None]:
        """Clips and what they stand for; sources that have none stay asked for by their prompts."""
        clips: list[Crop] = []
        asked: list[tuple[int, int]] = []
        for item, kept in enumerate(order if self.config.query > 0 else []):
            first = item * sources
            mixture = [c for c in plan.crops if first <= c.row < first + sources]
            for place, source in enumerate(kept):
                if not hit(self.rng, self.config.query) or (source != ABSENT and plan.built[first + source]):
                    continue
                if source == ABSENT:
                    clip = self.picker.absent(prompts[item][place], mixture, self.rng)
                else:
                    [crop] = [c for c in mixture if c.row == first + source]
                    clip = self.picker.present(crop, mixture, self.rng)
                if clip is not None:
                    clips.append(clip)
                    asked.append((item, place))
        if not clips:
            return None, None
        queries = self.picker.render(clips, self.config.augment, self.config.any_band, self.rng)
        return queries, torch.tensor(asked, device=queries.device)

    def _pairs(self) -> Tensor | None:
        config = self.config
        clips = draw_pairs(self.picker, config.pairs, self.rng, config.augment) if config.pairs else []
        return self.picker.render(clips, config.augment, config.any_band, self.rng) if clips else None

    def _plan(self, names: tuple[str, ...], plan: Plan) -> float:
        """Adds one mixture to the plan; returns its upper band edge as a share of the pool's."""
        rng, augment = self.rng, self.config.augment
        used: set[str] = set()
        song = None
        if self.songs and rng.random() < self.config.aligned and sum(n in STEMS for n in names) > 1:
            song = self.songs[rng.integers(len(self.songs))]
        place, rates = rng.random(), []  # one position and one speed for all aligned stems
        together = draw_speed(rng, augment) if song else Change()
        for name in names:
            row = len(plan.row_gain)
            plan.row_gain.append(self._gain(name))
            aligned = song is not None and name in song
            built = not aligned and name in BACKGROUNDS and self._build(name)
            plan.built.append(built)
            kinds = [name]
            if built:
                count = int(rng.choice(4, p=[0.1, 0.4, 0.4, 0.1])) + 1
                of = BACKGROUNDS[name]
                kinds = [str(k) for k in rng.permutation(of)[:count]] if len(of) > 1 else [of[0]] * count
            for kind in kinds:
                change = together if aligned else draw_speed(rng, augment)
                span = change.span(self.count, self.pool.rate)
                if song is not None and aligned:
                    item, offset = song[name], self._offset(song[name], place, span)
                else:
                    item, offset = self._pick(kind, used, span)
                gain = self._gain(kind) if built else 1.0
                change = draw_room(rng, augment, draw_colour(rng, augment, change))
                change = draw_width(rng, augment, change, self.pool.items[item], self.pool.rate)
                plan.crops.append(Crop(item, offset, span, gain, row, change))
                rates.append(self.pool.items[item].native_rate if change.fall_db is None else self.pool.rate)
        limited = min(rates) < self.pool.rate and rng.random() < self.config.band_limit
        edge = draw_edge(rng, self.config.any_band, self.pool.rate)
        return min(edge, min(rates) / self.pool.rate) if limited else edge

    def _build(self, name: str) -> bool:
        return not len(self.by_prompt[name]) or bool(self.rng.random() < self.config.built_background)

    def _pick(self, name: str, used: set[str], span: int, tries: int = 8) -> tuple[int, int]:
        """(item, offset) of a crop that is not silent, from a group that the mixture does not have yet."""
        choices = self.by_prompt[name]
        if name == "speech" and len(self.full_band) and hit(self.rng, self.config.full_band):
            choices = self.full_band
        for _ in range(tries):
            index = int(choices[self.rng.integers(len(choices))])
            offset = self._offset(index, self.rng.random(), span)
            if self.pool.items[index].group not in used and self.pool.power(index, offset, span) > 1e-7:
                break
        used.add(self.pool.items[index].group)
        return index, offset

    def _offset(self, index: int, place: float, span: int) -> int:
        """At `place` (0..1) of what is possible; an item shorter than the crop lands whole at a random offset."""
        return round(place * (int(self.pool.length[index]) - span))

    def _gain(self, name: str) -> float:
        """Of a level between the quietest of its kind and 0 dB, as a factor."""
        low = self.config.quietest_db[0 if name == "speech" or name in STEMS else 1]
        return float(10 ** (self.rng.uniform(low, 0.0) / 20))
