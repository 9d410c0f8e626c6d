"""What `ussfast evaluate transfer` says: JSON, Markdown tables, and the pictures of transfer_plots.py."""

import importlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import ussfast
from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate.tables import table_head, table_row
from ussfast.evaluate.transfer import Found
from ussfast.evaluate.transfer_cells import TUNED, Cell
from ussfast.evaluate.transfer_stats import STAR, best_of, of_excerpts, over_seeds, steps_to_reach, wilcoxon
from ussfast.evaluate.transfer_store import Outcome
from ussfast.separation import make_folders

PART = 0.75  # of what scratch reaches at best: where curves still rise
FILES = ("transfer.json", "transfer.md", "transfer-scores.png", "transfer-augmentation.png", "transfer-curves.png")


@dataclass(frozen=True)
class Line:
    """One kind of training on one data set, over its seeds.

    kind, pretrain, downstream, augment: as in Cell. runs: how many. excerpts: that were compared. si_sdr, improvement:
    in dB, means over excerpts. gain: of si_sdr over scratch under the same condition, and p: of the one-sided test
    that it is positive; both None of scratch itself, or without it. augmented: si_sdr less that without augmentation.
    steps: that each run took to what scratch reached at best, by the scores of validation; early: to PART of that; None
    where it did not get there. total: of pre-training and training.
    """

    kind: str
    pretrain: str | None
    downstream: str
    augment: str
    runs: int
    excerpts: int
    si_sdr: float
    improvement: float
    gain: float | None
    p: float | None
    augmented: float | None
    steps: tuple[int | None, ...]
    early: tuple[int | None, ...]
    total: int

    @property
    def star(self) -> bool:
        return self.p is not None and self.p < STAR

    @property
    def title(self) -> str:
        return self.kind if self.pretrain is None else f"{self.pretrain}, {self.kind}"


Group = tuple[str, str | None, str, str]  # kind, pretrain, downstream, augment


def groups(found: Found) -> dict[Group, list[Outcome]]:
    """Outcomes of all seeds together, without those of pre-training."""
    result: dict[Group, list[Outcome]] = {}
    for cell, outcome in found.outcomes.items():
        if cell.downstream is not None:
            result.setdefault((cell.kind, cell.pretrain, cell.downstream, cell.augment), []).append(outcome)
    return result


def lines(found: Found) -> list[Line]:
    """Of every kind of training there is, by data set and condition, scratch first."""
    of = groups(found)
    result = []
    for kind, pretrain, downstream, augment in _ordered(of):
        runs = of[kind, pretrain, downstream, augment]
        own = over_seeds([of_excerpts(run.scores) for run in runs])
        plain = of.get((kind, pretrain, downstream, "none"))
        control = of.get(("scratch", None, downstream, augment))
        against = None if kind == "scratch" or control is None else over_seeds([of_excerpts(c.scores) for c in control])
        mean = float(np.mean(own))
        result.append(
            Line(
                kind, pretrain, downstream, augment, len(runs), len(own), mean,
                mean - float(np.mean(over_seeds([of_excerpts(run.mixture) for run in runs]))),
                None if against is None else mean - float(np.mean(against)),
                None if against is None else wilcoxon(own, against),
                None if plain is None or augment == "none" else mean - _mean(plain),
                () if control is None else reached(runs, control),
                () if control is None else reached(runs, control, PART),
                runs[0].steps + (found.config.pretrain_steps if kind in TUNED else 0),
            )
        )  # fmt: skip
    return result


def _mean(runs: Sequence[Outcome]) -> float:
    return float(np.mean(over_seeds([of_excerpts(run.scores) for run in runs])))


def reached(runs: Sequence[Outcome], control: Sequence[Outcome], part: float = 1.0) -> tuple[int | None, ...]:
    """Steps of each run to a part of the best score of scratch with the same seed, of the last one where there is none.

    Without an improvement of scratch (0 dB), there is nothing to get to.
    """
    goals = [best_of(run.points) for run in control if run.points]
    if not goals:
        return ()
    pairs = [(run, goals[min(i, len(goals) - 1)]) for i, run in enumerate(runs)]
    return tuple(steps_to_reach(run.points, part * goal) if goal > 0 else None for run, goal in pairs)


def _ordered(of: dict[Group, list[Outcome]]) -> list[Group]:
    """By data set and condition as they first occur, scratch before what was pre-trained."""
    sets = list(dict.fromkeys(group[2] for group in of))
    augments = list(dict.fromkeys(group[3] for group in of))
    return sorted(of, key=lambda g: (sets.index(g[2]), augments.index(g[3]), g[0] != "scratch"))


def prepare(directory: Path) -> None:
    """Makes the folder for the files; OutputError where it cannot be, InputError where a library is missing."""
    for name in ("matplotlib", "scipy"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise InputError(f"the study needs {name}: pip install 'ussfast[evaluate]'") from None
    make_folders([directory / FILES[0]])


def write(found: Found, directory: Path) -> list[Path]:
    """Writes FILES into a folder that is there, each complete or not at all; returns the paths of those that there are.

    Without a condition beside "none" there is no picture of what augmentation does.
    """
    from ussfast.evaluate import transfer_plots

    rows = lines(found)
    if not rows:
        return []
    with atomic_write(directory / FILES[0]) as temporary:
        temporary.write_text(json.dumps(as_dict(found, rows), indent=1, allow_nan=False) + "\n")
    with atomic_write(directory / FILES[1]) as temporary:
        temporary.write_text(markdown(found, rows))
    written = [directory / name for name in FILES[:2]]
    drawn = (transfer_plots.scores(rows), transfer_plots.augmentation(rows), transfer_plots.curves(found))
    for name, figure in zip(FILES[2:], drawn, strict=True):
        if figure is not None:
            with atomic_write(directory / name) as temporary:
                figure.savefig(temporary, dpi=120, format="png")
            written.append(directory / name)
    return written


def as_dict(found: Found, rows: Sequence[Line]) -> dict[str, Any]:
    """Settings, lines and curves; the scores of single excerpts are in the folder of cells."""
    return {
        "ussfast": ussfast.__version__, "kind": "transfer", "recipe": found.recipe, "config": asdict(found.config),
        "sets": dict(found.sets), "lines": [asdict(row) | {"star": row.star} for row in rows],
        "cells": [_cell(cell, outcome) for cell, outcome in found.outcomes.items()],
    }  # fmt: skip


def _cell(cell: Cell, outcome: Outcome) -> dict[str, Any]:
    own = [value for value in of_excerpts(outcome.scores) if value is not None]
    return {
        "cell": cell.name, "steps": outcome.steps, "seconds": round(outcome.seconds, 1),
        "parameters": outcome.parameters, "si_sdr": float(np.mean(own)) if own else None, "curve": outcome.points,
    }  # fmt: skip


def summary(found: Found) -> list[dict[str, Any]]:
    """The lines, for --json."""
    return [asdict(row) | {"star": row.star} for row in lines(found)]


def markdown(found: Found, rows: Sequence[Line]) -> str:
    """The file: what was done, and the tables."""
    config = found.config
    chosen = "that do not overlap" if config.samples is None else "drawn with one seed"
    seconds = sum(outcome.seconds for outcome in found.outcomes.values())
    about = (
        f"Recipe {found.recipe}: {config.pretrain_steps} steps of pre-training, {config.finetune_steps} of "
        f"fine-tuning, and both together from scratch. SI-SDR of excerpts of {config.seconds:g} s {chosen}, from "
        f"held-out recordings. {len(found.outcomes)} runs took {seconds / 60:.0f} minutes; ussfast "
        f"{ussfast.__version__}."
    )
    return f"# Transfer learning\n\n{about}\n\n{table(rows)}\n"


def table(rows: Sequence[Line]) -> str:
    """Markdown: a table for each data set."""
    parts = []
    for downstream in dict.fromkeys(row.downstream for row in rows):
        own = [row for row in rows if row.downstream == downstream]
        head = ("condition", "model", "SI-SDR (dB)", "over the mixture", "over scratch", "p", "by augmentation")
        text = table_head(*head, f"steps to {PART:.0%} of scratch's best", "to its best", "steps in all")
        for row in own:
            text.append(
                table_row(
                    row.augment, row.title, f"{row.si_sdr:z.2f}{' *' if row.star else ''}", _signed(row.improvement),
                    _signed(row.gain), _probability(row.p), _signed(row.augmented),
                    _steps(row.early), _steps(row.steps), row.total,
                )
            )  # fmt: skip
        counts = sorted({row.excerpts for row in own})
        runs = sorted({row.runs for row in own})
        several = f", means of {_range(runs)} runs" if runs != [1] else ""
        parts.append(f"## {downstream}\n\n{_range(counts)} excerpts{several}.\n\n" + "\n".join(text))
    note = (
        f"\\* better than from scratch under the same condition, p < {STAR:g} (one-sided Wilcoxon signed-rank test "
        "over the excerpts). Steps to scratch's best: the first validation that is as good as the best one of the "
        f"model from scratch, or as {PART:.0%} of it in dB over the mixture (its own: where it got there); steps of "
        "pre-training are not among them, but in the last column."
    )
    return "\n\n".join([*parts, note])


def _range(numbers: Sequence[int]) -> str:
    return str(numbers[0]) if numbers[0] == numbers[-1] else f"{numbers[0]} to {numbers[-1]}"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+z.2f}"


def _probability(p: float | None) -> str:
    return "-" if p is None else f"{p:.1e}" if p < STAR else f"{p:.3f}"


def _steps(steps: Sequence[int | None]) -> str:
    return ", ".join("never" if step is None else str(step) for step in steps) or "-"
