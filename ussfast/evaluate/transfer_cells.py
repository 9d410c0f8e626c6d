"""Which runs of training the transfer study has, and how they are asked for. Nothing here needs torch."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from ussfast.errors import InputError

AUGMENTS = ("none", "pitch", "stretch", "incoherent")
TUNED = ("whole", "mask", "head", "lora")  # what of a model is fine-tuned
TRAINED = (*TUNED, "scratch")
NAME = re.compile(r"[A-Za-z0-9_]{1,40}")


@dataclass(frozen=True)
class Cell:
    """One training run of the study.

    kind: "pretrain", "scratch", or what of a pre-trained model is fine-tuned. pretrain, downstream: names of data
    sets, None where there is no such stage. augment: of the training mixtures, in every stage.
    """

    kind: Literal["pretrain", "whole", "mask", "head", "lora", "scratch"]
    augment: str
    pretrain: str | None = None
    downstream: str | None = None
    seed: int = 0

    @property
    def name(self) -> str:
        """Of its files."""
        names = [self.kind, *(n for n in (self.pretrain, self.downstream) if n), self.augment, str(self.seed)]
        return "-".join(names)

    @property
    def before(self) -> "Cell | None":
        """The run whose model this one begins with."""
        return Cell("pretrain", self.augment, self.pretrain, None, self.seed) if self.kind in TUNED else None


def named(pairs: list[str], option: str) -> dict[str, Path]:
    """Data sets from NAME=PATH; InputError for what is none, or for a name given twice."""
    found: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not equals or not path or not NAME.fullmatch(name):
            raise InputError(f"{option} {pair}: give NAME=PATH, the name of letters, digits and _")
        if name in found:
            raise InputError(f"{option} {pair}: there is already one with the name {name}")
        found[name] = Path(path)
    return found


def stems_of(pairs: list[str], sets: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Names of stems by data set, from NAME=STEM,...; InputError for what is none, or a set that there is not."""
    found: dict[str, tuple[str, ...]] = {}
    for pair in pairs:
        name, _, stems = pair.partition("=")
        wanted = tuple(dict.fromkeys(stem.strip() for stem in stems.split(",") if stem.strip()))
        if name not in sets:
            raise InputError(f"--stems {pair}: is not of a data set; those are {', '.join(sets)}")
        if len(wanted) < 2:
            raise InputError(f"--stems {pair}: give NAME=STEM,STEM,... with two stems or more")
        found[name] = wanted
    return found


def chosen(text: str, known: tuple[str, ...], option: str) -> tuple[str, ...]:
    """Names from a list with commas, each once, in the order of `known`; InputError for one that is not there."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"{option} {name}: is not one of {', '.join(known)}")
    if not names:
        raise InputError(f"{option}: names none of {', '.join(known)}")
    return tuple(name for name in known if name in names)


def grid(
    pretrain: Sequence[str], downstream: Sequence[str], augments: Sequence[str], trained: Sequence[str], seeds: int
) -> list[Cell]:
    """All cells in the order in which they are done: first seeds first, the first condition whole before the next."""
    cells: list[Cell] = []
    for seed in range(seeds):
        for augment in augments:
            if "scratch" in trained:
                cells += [Cell("scratch", augment, None, name, seed) for name in downstream]
            for before in pretrain if set(trained) & set(TUNED) else ():
                cells.append(Cell("pretrain", augment, before, None, seed))
                cells += [
                    Cell(kind, augment, before, name, seed)  # type: ignore[arg-type]
                    for name in downstream
                    for kind in trained
                    if kind in TUNED
                ]
    return cells


def only(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """The cells with a name like one of the patterns, and what they begin with; all if there are no patterns.

    Raises:
        InputError: a pattern that fits none.
    """
    if not patterns:
        return list(cells)
    for pattern in patterns:
        if not any(fnmatch(cell.name, pattern) for cell in cells):
            raise InputError(f"--only {pattern}: fits no cell; the first is {cells[0].name}")
    wanted = {cell for cell in cells if any(fnmatch(cell.name, pattern) for pattern in patterns)}
    wanted |= {before for cell in wanted if (before := cell.before)}
    return [cell for cell in cells if cell in wanted]
