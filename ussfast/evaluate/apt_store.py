"""Results of `ussfast evaluate apt` in a folder: one file for each class, as soon as there is something to keep."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate.apt_cases import SoundClass
from ussfast.evaluate.experiment import belongs, read
from ussfast.plain import Checked, Range, from_dict
from ussfast.separation import make_folders

SETTINGS, CLASSES = "apt-settings.json", "classes"

Outcomes = dict[str, dict[str, "Outcome"]]  # by shots and method


@dataclasses.dataclass(frozen=True)
class Outcome(Checked):
    """Of one method on one class.

    clips: that the prompt was made of; seconds: that this took, without what all methods share. sdr, snr: in dB of each
    mixture, sdr as `ussfast.evaluate.metrics.sdr` has it, None where there is nothing to measure. vector: of the
    prompt. kept: of tuned ones, whether tuning found a better one than it began with.
    """

    clips: Annotated[int, Range(1, 1e9)]
    seconds: Annotated[float, Range(0, 1e9)]
    sdr: tuple[Annotated[float, Range(-100, 100)] | None, ...]
    snr: tuple[Annotated[float, Range(-100, 100)], ...]
    vector: tuple[float, ...]
    kept: bool | None = None

    def values(self, metric: str) -> list[float]:
        """Those that there are, of "sdr" or "snr"."""
        return [value for value in getattr(self, metric) if value is not None]

    def median(self, metric: str) -> float | None:
        values = self.values(metric)
        return float(np.median(values)) if values else None


class Store:
    """A folder of one experiment, which is made.

    Args:
        settings: what results depend on, as JSON has it; of numbers of clips, methods and classes they do not.
    Raises:
        InputError: the folder is that of another experiment. OutputError: it cannot be written.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]):
        self.folder = folder
        make_folders([folder / CLASSES / "any"])
        belongs(folder / SETTINGS, settings)

    def read(self, sound: SoundClass) -> Outcomes:
        """What there is of a class; InputError for a file that is something else."""
        path = self._path(sound)
        if not path.exists():
            return {}
        try:
            data = read(path)
            if data["class"] != sound.name:
                raise KeyError("class")
            return {
                shots: {method: from_dict(Outcome, row, f"{shots}.{method}") for method, row in rows.items()}
                for shots, rows in data["shots"].items()
            }
        except (KeyError, TypeError, AttributeError, InputError) as error:
            raise InputError(
                f"{path}: not results of {sound.name!r}: {error!r}; remove it to have them again"
            ) from None

    def write(self, sound: SoundClass, outcomes: Outcomes) -> None:
        """All of a class, in place of what there was."""
        rows = {s: {m: dataclasses.asdict(one) for m, one in of.items()} for s, of in outcomes.items()}
        with atomic_write(self._path(sound)) as temporary:
            temporary.write_text(json.dumps({"class": sound.name, "shots": rows}, allow_nan=False) + "\n")

    def _path(self, sound: SoundClass) -> Path:
        return self.folder / CLASSES / sound.file
