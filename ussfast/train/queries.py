"""Example clips that sources are asked for by: another clip of the same label, speaker or stem.

A clip never contains audio of the mixture it is used with.
"""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from ussfast.data.pool import AudioPool
from ussfast.train import augment
from ussfast.train.chains import STEMS
from ussfast.train.rendering import AugmentConfig, Change, Crop, draw_colour, draw_edge, level, render_crops

LEAST_POWER = 1e-7  # of a clip, over full scale


class QueryPicker:
    """Finds clips in a pool; has no memory.

    Args:
        pool: training items.
        seconds: length of a clip.
    """

    def __init__(self, pool: AudioPool, seconds: float):
        self.pool, self.count = pool, round(seconds * pool.rate)
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
        taken = {c.item for c in mixture}
        others = [i for i in self.alike[item.prompt, kind] if i not in taken] if kind is not None else []
        if item.prompt in STEMS:
            return self._elsewhere(crop.item, mixture, rng) or self.any_of(others, rng)
        return self.any_of(others, rng) or self._elsewhere(crop.item, mixture, rng)

    def absent(self, prompt: str, mixture: Sequence[Crop], rng: np.random.Generator) -> Crop | None:
        """A clip of `prompt` from a song, speaker or label that is not in the mixture, or None."""
        groups = {self.pool.items[c.item].group for c in mixture}
        return self.any_of([i for i in self.by_prompt.get(prompt, ()) if self.pool.items[i].group not in groups], rng)

    def any_of(self, items: list[int], rng: np.random.Generator, tries: int = 8) -> Crop | None:
        """A clip of one of these items, or None where none was found that can be heard."""
        for _ in range(tries if items else 0):
            index = items[rng.integers(len(items))]
            offset = round(rng.random() * (int(self.pool.length[index]) - self.count))
            if self.pool.power(index, offset, self.count) > LEAST_POWER:
                return self._clip(index, offset)
        return None

    def _elsewhere(
        self, item: int, mixture: Sequence[Crop], rng: np.random.Generator, tries: int = 8
    ) -> Crop | None:
        """A whole clip of the same item that no crop of the mixture reaches into."""
        cuts = sorted((c.offset, c.offset + c.span) for c in mixture if c.item == item)
        begin, first, number = 0, [], []  # of the offsets in each gap between them
        for start, stop in [*cuts, (int(self.pool.length[item]), 0)]:
            first.append(begin)
            number.append(max(0, start - begin - self.count + 1))
            begin = max(begin, stop)
        ends = np.cumsum(number)
        for _ in range(tries if ends[-1] else 0):
            place = int(rng.integers(ends[-1]))
            gap = int(np.searchsorted(ends, place, side="right"))
            offset = first[gap] + place - int(ends[gap]) + number[gap]
            if self.pool.power(item, offset, self.count) > LEAST_POWER:
                return self._clip(item, offset)
        return None

    def _clip(self, item: int, offset: int) -> Crop:
        return Crop(item, offset, self.count, 1.0, 0, Change())

    def render(
        self, clips: list[Crop], config: AugmentConfig, any_band: float, rng: np.random.Generator
    ) -> Tensor:
        """[clips, samples] at unit RMS, with a colour and a band edge of their own."""
        changed = [Crop(c.item, c.offset, c.span, 1.0, 0, draw_colour(rng, config, c.change)) for c in clips]
        edges = [draw_edge(rng, any_band, self.pool.rate) for _ in clips]
        x = render_crops(self.pool, changed, self.count, rng)
        return level(augment.band_limit(x, edges) if min(edges) < 1 else x, 1.0)
