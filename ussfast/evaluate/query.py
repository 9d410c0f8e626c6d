"""Asking by example: for each source of a mixture, another clip of the same speaker or label."""

from collections.abc import Iterator, Sequence

import numpy as np

from ussfast import audio
from ussfast.data.pool import Item
from ussfast.separator import Separator


class Queries:
    """Prompts made of one example clip each, for items of the dev split.

    Args:
        separator: one that can enroll; prompts are added to it.
        dev: the items that mixtures are made of, in the order of their pool.
        train: the items to fall back on.
    """

    def __init__(self, separator: Separator, dev: Sequence[Item], train: Sequence[Item]):
        self.separator, self.dev, self.train = separator, dev, train
        self._names: dict[str, str | None] = {}

    def prompt(self, index: int) -> str | None:
        """Name of a prompt for dev item `index`: an example of the same prompt and group, never that item itself.

        The next such clip of the dev split in the order of the manifest, from its start again after its end; without
        one there, the first of the train split. Silent clips do not count. None where there is none at all.
        """
        for item in self._candidates(index):
            if item.path not in self._names:
                self._names[item.path] = self._enrolled(item)
            if (name := self._names[item.path]) is not None:
                return name
        return None

    def _candidates(self, index: int) -> Iterator[Item]:
        wanted = self.dev[index]
        around = [*self.dev[index:], *self.dev[:index], *self.train]
        for item in around:
            if (item.prompt, item.group) == (wanted.prompt, wanted.group) and item.path != wanted.path:
                yield item

    def _enrolled(self, item: Item) -> str | None:
        clip, rate = audio.read(item.path)
        if np.mean(clip[0] ** 2) < 1e-7:
            return None
        name = f"query {sum(n is not None for n in self._names.values()) + 1}"
        self.separator.enroll(name, [clip[:1]], rate)
        return name
