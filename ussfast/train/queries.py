"""Example clips that sources are asked for by: another clip of the same label, speaker or stem.

A clip never contains audio of the mixture it is used with.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ussfast.data.pool import AudioPool
from ussfast.train import augment
from ussfast.train.chains import STEMS
from ussfast.train.rendering import (
    AugmentConfig,
    Change,
    Crop,
    draw_colour,
    draw_edge,
    draw_speed,
    hit,
    level,
    render_crops,
)

LEAST_POWER = 1e-7  # of a clip, over full scale
UNCHANGED = Change()


class QueryPicker:
    """Finds clips in a pool; has no memory.

    Args:
        pool: training items.
        seconds: length of a clip.
        moved: share of clips whose pitch and duration are changed as those of the source, or of the other clip of a
            pair, are: what is changed so is another voice, another thing, and its pitch is how one tells.
    """

    def __init__(self, pool: AudioPool, seconds: float, moved: float = 0.0):
        self.pool, self.count, self.moved = pool, round(seconds * pool.rate), moved
        self.alike: dict[tuple[str, str], list[int]] = {}
        self.by_prompt: dict[str, list[int]] = {}
        for i, item in enumerate(pool.items):
            self.by_prompt.setdefault(item.prompt, []).append(i)
            if (kind := self.kind(i)) is not None:
                self.alike.setdefault((item.prompt, kind), []).append(i)

    def kind(self, index: int) -> str | None:
        """What clips that stand for each other share besides the prompt: nothing (''), a speaker or a label."""
        item = self.pool.items[index]
        return "" if item.prompt in STEMS else item.speaker if item.prompt == "speech" else item.label

    def present(self, crop: Crop, mixture: Sequence[Crop], rng: np.random.Generator) -> Crop | None:
        """A clip for the source that `crop` alone makes up, or None where there is none.

        Stems: another place of the same song, else another song. Others: another item of the same label or speaker,
        else another place of the same item. Not where another source of the mixture is of the same kind: a clip could
        not tell the two apart.
        """
        item, kind = self.pool.items[crop.item], self.kind(crop.item)
        for other in mixture:
            if other.row != crop.row and self.pool.items[other.item].prompt == item.prompt:
                if kind is not None and self.kind(other.item) == kind:
                    return None
        taken, change = {c.item for c in mixture}, self._moved(crop.change, rng)
        others = [i for i in self.alike[item.prompt, kind] if i not in taken] if kind is not None else []
        if item.prompt in STEMS:
            return self._elsewhere(crop.item, mixture, rng, change) or self.any_of(others, rng, change)
        return self.any_of(others, rng, change) or self._elsewhere(crop.item, mixture, rng, change)

    def absent(self, prompt: str, mixture: Sequence[Crop], rng: np.random.Generator) -> Crop | None:
        """A clip of `prompt` from a song, speaker or label that is not in the mixture, or None."""
        groups = {self.pool.items[c.item].group for c in mixture}
        return self.any_of([i for i in self.by_prompt.get(prompt, ()) if self.pool.items[i].group not in groups], rng)

    def _moved(self, change: Change, rng: np.random.Generator) -> Change:
        """The pitch and duration of `change` alone, or none."""
        return Change(change.pitch, change.stretch) if hit(rng, self.moved) else Change()

    def pair(
        self, items: list[int], config: AugmentConfig, rng: np.random.Generator
    ) -> tuple[Crop, Crop] | None:
        """Clips of two of these items, both changed alike in pitch and duration or neither; None as for `any_of`."""
        change = self._moved(draw_speed(rng, config), rng) if self.moved else Change()
        one = self.any_of(items, rng, change)
        other = one and self.any_of([i for i in items if i != one.item], rng, change)
        return (one, other) if one and other else None

    def any_of(
        self, items: list[int], rng: np.random.Generator, change: Change = UNCHANGED, tries: int = 8
    ) -> Crop | None:
        """A clip of one of these items, or None where none was found that can be heard."""
        span = change.span(self.count, self.pool.rate)
        for _ in range(tries if items else 0):
            index = items[rng.integers(len(items))]
            offset = round(rng.random() * (int(self.pool.length[index]) - span))
            if self.pool.power(index, offset, span) > LEAST_POWER:
                return Crop(index, offset, span, 1.0, 0, change)
        return None

    def _elsewhere(
        self, item: int, mixture: Sequence[Crop], rng: np.random.Generator, change: Change, tries: int = 8
    ) -> Crop | None:
        """A whole clip of the same item that no crop of the mixture reaches into."""
        span = change.span(self.count, self.pool.rate)
        cuts = sorted((c.offset, c.offset + c.span) for c in mixture if c.item == item)
        begin, first, number = 0, [], []  # of the offsets in each gap between them
        for start, stop in [*cuts, (int(self.pool.length[item]), 0)]:
            first.append(begin)
            number.append(max(0, start - begin - span + 1))
            begin = max(begin, stop)
        ends = np.cumsum(number)
        for _ in range(tries if ends[-1] else 0):
            place = int(rng.integers(ends[-1]))
            gap = int(np.searchsorted(ends, place, side="right"))
            offset = first[gap] + place - int(ends[gap]) + number[gap]
            if self.pool.power(item, offset, span) > LEAST_POWER:
                return Crop(item, offset, span, 1.0, 0, change)
        return None

    def render(
        self, clips: list[Crop], config: AugmentConfig, any_band: float, rng: np.random.Generator
    ) -> Tensor:
        """[clips, samples] at unit RMS, with a colour and a band edge of their own."""
        changed = [Crop(c.item, c.offset, c.span, 1.0, 0, draw_colour(rng, config, c.change)) for c in clips]
        edges = [draw_edge(rng, any_band, self.pool.rate) for _ in clips]
        x = render_crops(self.pool, changed, self.count, rng)
        return level(augment.band_limit(x, edges) if min(edges) < 1 else x, 1.0)
