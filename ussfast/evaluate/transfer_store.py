"""Cells of the transfer study, and their results in a folder: one file for each, as soon as it is there."""

import dataclasses
import json
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate.experiment import belongs, read
from ussfast.plain import Checked, Range, from_dict
from ussfast.separation import make_folders

SETTINGS, CELLS, RUNS = "transfer-settings.json", "cells", "runs"
AUGMENTS = ("none", "pitch", "stretch", "incoherent")
TUNED = ("whole", "mask", "head", "lora")  # what of a model is fine-tuned
TRAINED = (*TUNED, "scratch")
NAME = re.compile(r"[A-Za-z0-9_]{1,40}")

Decibels = Annotated[float, Range(-100, 100)]


@dataclasses.dataclass(frozen=True)
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


@dataclasses.dataclass(frozen=True)
class Outcome(Checked):
    """Of one cell.

    steps: of this run; seconds: that it took, of the last session that worked on it. data: fingerprints of its data
    sets by name. parameters: of the model. validated: steps, and curve: their scores. sources: names. scores, mixture:
    SI-SDR in dB of the estimate and of the mixture itself, by excerpt and source, None where a source is silent; none
    at all of a pre-training run.
    """

    steps: Annotated[int, Range(1, 1e12)]
    seconds: Annotated[float, Range(0, 1e9)]
    data: dict
    parameters: Annotated[int, Range(1, 1e12)]
    validated: tuple[Annotated[int, Range(0, 1e12)], ...] = ()
    curve: tuple[Decibels, ...] = ()
    sources: tuple[str, ...] = ()
    scores: tuple[tuple[Decibels | None, ...], ...] = ()
    mixture: tuple[tuple[Decibels | None, ...], ...] = ()

    @property
    def points(self) -> list[tuple[int, float]]:
        return list(zip(self.validated, self.curve, strict=True))


class Store:
    """A folder of one study, which is made.

    Args:
        settings: what results depend on, as JSON has it; which data sets, conditions and seeds there are is not.
    Raises:
        InputError: the folder is that of another study. OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        belongs(folder / SETTINGS, settings)
        make_folders([folder / CELLS / "any", folder / RUNS / "any"])

    def read(self, cell: Cell, data: Mapping[str, str]) -> Outcome | None:
        """What there is of a cell; InputError for a file that is something else, or results of other data.

        data: fingerprints of the data sets by name.
        """
        path = self._path(cell)
        if not path.exists():
            return None
        try:
            found = read(path)
            if found.pop("cell") != dataclasses.asdict(cell):
                raise KeyError("cell")
            outcome = from_dict(Outcome, found)
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(f"{path}: not results of {cell.name}: {error!r}; remove it to have them again") from None
        for name, fingerprint in outcome.data.items():
            if data.get(name) != fingerprint:
                raise InputError(
                    f"{path}: results of other audio than {name} has now; choose another name for it, or another folder"
                )
        return outcome

    def write(self, cell: Cell, outcome: Outcome) -> None:
        row = {"cell": dataclasses.asdict(cell), **dataclasses.asdict(outcome)}
        with atomic_write(self._path(cell)) as temporary:
            temporary.write_text(json.dumps(row, allow_nan=False) + "\n")

    def run(self, cell: Cell) -> Path:
        """Where the cell is trained."""
        return self.folder / RUNS / cell.name

    def _path(self, cell: Cell) -> Path:
        return self.folder / CELLS / f"{cell.name}.json"


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
