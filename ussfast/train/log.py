"""What a run writes about itself: log.jsonl, validation.md and, if wanted, TensorBoard's files."""

import json
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError

Row = dict[str, Any]


def read_log(directory: Path) -> list[Row]:
    """Rows of log.jsonl, those of training with "loss", those of validation with "si_sdr_improvement".

    directory: a run's, or the log itself.
    """
    path = directory if directory.suffix == ".jsonl" else directory / "log.jsonl"
    if not path.is_file():
        return []
    rows: list[Row] = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:  # a line that a killed process left half-written
            continue
    return rows


class RunLog:
    """The log of a run that goes on after `step`: rows of later steps, which will be made again, are dropped."""

    def __init__(self, directory: Path, step: int, tensorboard: bool):
        self.directory = directory
        self.rows = [row for row in read_log(directory) if row["step"] <= step]
        target, text = directory / "log.jsonl", "".join(json.dumps(row) + "\n" for row in self.rows)
        if target.is_file() and target.read_text() != text:
            with atomic_write(target) as path:
                path.write_text(text)
        self._board: Any = _board(directory / "tb", step) if tensorboard else None

    def write(self, row: Row) -> None:
        """Adds a row; the table of validations is made anew when it is one."""
        self.rows.append(row)
        with open(self.directory / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        scores = row.get("si_sdr_improvement")
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
    """A Markdown table of the validations among the rows."""
    found = [row for row in rows if "si_sdr_improvement" in row]
    tasks = list(dict.fromkeys(task for row in found for task in row["si_sdr_improvement"]))
    lines = ["SI-SDR improvement over the mixture in dB, mean weights.", ""]
    lines += [f"| step | {' | '.join(tasks)} | mean |", "|---" * (len(tasks) + 2) + "|"]
    for row in found:
        scores = row["si_sdr_improvement"]
        cells = [f"{scores[task]:+.2f}" if task in scores else "" for task in tasks]
        lines.append(f"| {row['step']} | {' | '.join(cells)} | {row['mean']:+.2f} |")
    return "\n".join(lines) + "\n"
