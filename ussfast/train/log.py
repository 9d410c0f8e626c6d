"""What a run writes about itself: log.jsonl, validation.md and, if wanted, TensorBoard's files."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write, write_failure
from ussfast.errors import InputError, OutputError
from ussfast.train.folders import is_number

Row = dict[str, Any]


@dataclass(frozen=True)
class Measure:
    """What a kind of training is validated by.

    key: of the log's rows. name: in sentences. title: of the table of validations. axis: what a curve of means shows.
    data: what validation goes over.
    """

    key: str
    name: str
    title: str
    axis: str
    data: str = "mixtures"
    unit: str = " dB"
    digits: str = "+.2f"
    loss: str = "training loss"

    def shown(self, value: float, unit: bool = True) -> str:
        return f"{value:{self.digits}}{self.unit if unit else ''}"


SI_SDR = Measure(
    "si_sdr_improvement",
    "SI-SDR improvement",
    "SI-SDR improvement over the mixture in dB, mean weights.",
    "SI-SDR improvement, mean over tasks (dB)",
    loss="training loss (dB)",
)
PRECISION = Measure(
    "average_precision",
    "average precision",
    "Average precision of each label, mean weights.",
    "average precision, mean over labels",
    data="clips",
    unit="",
    digits=".3f",
)
SDR = Measure(
    "sdr",
    "SDR",
    "Median SDR in dB with mean weights: from a mixture, from the sound alone (clean), and how far another sound alone "
    "is lowered (silence).",
    "SDR from mixtures, median (dB)",
)
EMBEDDING = Measure(
    "embedding_fit",
    "fit of the embedding",
    "1 less the loss of deep clustering, mean weights.",
    "fit of the embedding",
    unit="",
    digits=".3f",
)
MEASURES = {measure.key: measure for measure in (SI_SDR, PRECISION, SDR, EMBEDDING)}


def measured(row: Row) -> Measure | None:
    """By what a row of the log validates; None for one of training."""
    return next((MEASURES[key] for key in row if key in MEASURES), None)


def read_log(directory: Path) -> list[Row]:
    """Rows of log.jsonl, those of training with "loss", those of validation with a key of MEASURES; other lines,
    such as one that a killed process left half-written, are left out.

    directory: a run's, or the log itself.
    """
    path = directory if directory.suffix == ".jsonl" else directory / "log.jsonl"
    if not path.is_file():
        return []
    rows: list[Row] = []
    for line in path.read_text(errors="replace").splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if _is_row(row):
            rows.append(row)
    return rows


def _is_row(row: Any) -> bool:
    if not isinstance(row, dict) or type(row.get("step")) is not int:
        return False
    measure = measured(row)
    scores = row[measure.key] if measure else {}
    return isinstance(scores, dict) and all(is_number(value) for value in [*scores.values(), row.get("mean", 0)])


class RunLog:
    """The log of a run that goes on after `step`: rows of later steps, which will be made again, are dropped."""

    def __init__(self, directory: Path, step: int, tensorboard: bool):
        self.directory = directory
        self.rows = [row for row in read_log(directory) if row["step"] <= step]
        if (directory / "log.jsonl").is_dir():
            raise OutputError(f"{directory / 'log.jsonl'}: is a folder, where the run's log is to be")
        target, text = directory / "log.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows)
        if target.is_file() and target.read_bytes() != text.encode():
            with atomic_write(target) as path:
                path.write_text(text)
        self._board: Any = _board(directory / "tb", step) if tensorboard else None

    def write(self, row: Row) -> None:
        """Adds a row; the table of validations is made anew when it is one."""
        self.rows.append(row)
        path = self.directory / "log.jsonl"
        try:
            with open(path, "a") as file:
                file.write(json.dumps(row) + "\n")
        except OSError as error:
            raise write_failure(path, error) from error
        measure = measured(row)
        scores = row[measure.key] if measure else None
        if scores is not None:
            with atomic_write(self.directory / "validation.md") as path:
                path.write_text(validation_table(self.rows))
        if self._board is not None:
            numbers = {f"validation/{task}": value for task, value in (scores or {}).items()}
            kind = "train" if scores is None else "validation"
            numbers |= {f"{kind}/{key}": value for key, value in row.items() if isinstance(value, float)}
            for name, value in numbers.items():
                self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        if self._board is not None:
            self._board.close()


def _board(directory: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError(
            "run.tensorboard needs tensorboard: pip install 'ussfast[train]', or set it to false"
        ) from None
    # What an interrupted run wrote beyond its checkpoint is hidden.
    return SummaryWriter(str(directory), purge_step=step + 1 if step else None)


def validation_table(rows: list[Row]) -> str:
    """A Markdown table of the validations among the rows, which are by one measure."""
    found = [(row, measure) for row in rows if (measure := measured(row))]
    measure = found[0][1] if found else SI_SDR
    tables = [(row, row[measure.key]) for row, own in found if own is measure]
    names = list(dict.fromkeys(name for _, scores in tables for name in scores))
    lines = [measure.title, ""]
    lines += [f"| step | {' | '.join(names)} | mean |", "|---" * (len(names) + 2) + "|"]
    for row, scores in tables:
        cells = [measure.shown(scores[name], unit=False) if name in scores else "" for name in names]
        lines.append(f"| {row['step']} | {' | '.join(cells)} | {measure.shown(row['mean'], unit=False)} |")
    return "\n".join(lines) + "\n"
