"""Results of the transfer study in a folder: one file for each cell, as soon as it is there."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate.experiment import belongs, read
from ussfast.evaluate.transfer_cells import Cell
from ussfast.plain import Checked, Range, from_dict
from ussfast.separation import make_folders

SETTINGS, CELLS, RUNS = "transfer-settings.json", "cells", "runs"
Decibels = Annotated[float, Range(-100, 100)]


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
