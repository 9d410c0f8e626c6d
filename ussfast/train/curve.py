"""Learning curves of runs: python -m ussfast.train.curve RUN... -o FILE.png

With --over audio, improvement over the audio that was seen: bench/results/training/default.png is made with

    python -m ussfast.train.curve bench/results/training/{default,first-default}.jsonl --over audio --seconds 3 2.5 \\
        --reference bench/results/training/first-default.jsonl -o bench/results/training/default.png
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError, UssfastError
from ussfast.train.log import SI_SDR, Measure, Row, measured, read_log


def plot(run_directories: Sequence[Path], output: Path) -> None:
    """Draws the training loss and the mean validation of runs over their steps, one colour per run.

    Args:
        run_directories: runs' folders, or logs (.jsonl).
        output: an image; its suffix says which kind (.png, .svg, .pdf).
    Raises:
        InputError: a run without rows in its log, a kind of image that cannot be made, or matplotlib is missing.
    """
    figure = _figure(9)
    left, right = figure.subplots(1, 2)
    measure = _measure(run_directories, SI_SDR)
    for directory in run_directories:
        rows = _rows(directory)
        for axes, key in ((left, "loss"), (right, "mean")):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], label=_name(directory))
    left.set(xlabel="step", ylabel=measure.loss)
    right.set(xlabel="step", ylabel=measure.axis)
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    _save(figure, output)


def improvement_over_audio(rows: Sequence[Row], seconds: float) -> list[tuple[float, float]]:
    """(seconds of audio seen, mean SI-SDR improvement in dB) of each validation in a log.

    A row of training says how many mixtures of `seconds` there were per second, and the hours up to it: that speed
    times the hours since the row before is the number of mixtures in between.
    """
    seen, hours, found = 0.0, 0.0, []
    for row in rows:
        if "mixtures_per_second" in row:
            seen += (row["hours"] - hours) * 3600 * row["mixtures_per_second"] * seconds
            hours = row["hours"]
        elif row.get("mean") is not None:
            found.append((seen, float(row["mean"])))
    return found


def plot_over_audio(
    run_directories: Sequence[Path], output: Path, seconds: Sequence[float], reference: Path | None = None
) -> None:
    """Draws the mean validation of runs over the seconds of audio that they have seen, one colour per run.

    Args:
        run_directories, output: as for `plot`.
        seconds: length of a mixture in training, the recipe's `mix.seconds`: of each run, or one for all.
        reference: a run or log whose last validation is drawn as a line.
    Raises:
        InputError: as `plot`; a run, or the reference, without a validation; another number of lengths.
    """
    figure = _figure(7)
    axes = figure.subplots()
    lengths = list(seconds) * (len(run_directories) if len(seconds) == 1 else 1)
    if len(lengths) != len(run_directories):
        raise InputError(
            f"seconds: one for all runs or one for each, got {len(seconds)} for {len(run_directories)} runs"
        )
    for directory, length in zip(run_directories, lengths, strict=True):
        points = _validations(directory, length)
        label = f"{_name(directory)}, mixtures of {length:g} s"
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=label)
    measure = _measure(run_directories, SI_SDR)
    if reference is not None:
        value = _validations(reference, lengths[0])[-1][1]
        end = measure.shown(value).lstrip("+")
        axes.axhline(value, color="grey", linestyle="--", label=f"{_name(reference)}, at its end: {end}")
    axes.set(xlabel="audio seen (s)", ylabel=measure.axis)
    axes.grid(alpha=0.3)
    axes.legend()
    _save(figure, output)


def _measure(run_directories: Sequence[Path], otherwise: Measure) -> Measure:
    """By what the runs were validated: the axis is labelled for the last one that was."""
    rows = [row for directory in run_directories for row in _rows(directory)]
    return next(filter(None, map(measured, reversed(rows))), otherwise)


def _rows(directory: Path) -> list[Row]:
    rows = read_log(Path(directory))
    if not rows:
        raise InputError(f"{directory}: no log.jsonl with rows in it")
    return rows


def _validations(directory: Path, seconds: float) -> list[tuple[float, float]]:
    points = improvement_over_audio(_rows(directory), seconds)
    if not points:
        raise InputError(f"{directory}: no validation in its log")
    return points


def _name(directory: Path) -> str:
    path = Path(directory).resolve()
    return path.stem if path.suffix == ".jsonl" else path.name


def _figure(width: float) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("curves need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(width, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, output: Path) -> None:
    kinds = figure.canvas.get_supported_filetypes()
    if output.suffix[1:].lower() not in kinds:
        raise InputError(f"{output}: images can be {', '.join(sorted(kinds))}")
    with atomic_write(output) as path:
        figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ussfast.train.curve", description="Learning curves of runs.")
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUN", help="run folders of ussfast train, or logs (.jsonl)"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    parser.add_argument("--over", choices=("steps", "audio"), default="steps", help="what the curves run over")
    parser.add_argument(
        "--seconds", type=float, nargs="+", default=[3.0], help="of a mixture in training, for each run (3)"
    )
    parser.add_argument("--reference", type=Path, metavar="RUN", help="with --over audio: its last value as a line")
    options = parser.parse_args(arguments)
    try:
        if options.over == "audio":
            plot_over_audio(options.runs, options.output, options.seconds, options.reference)
        else:
            plot(options.runs, options.output)
    except UssfastError as error:
        print(f"ussfast: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
