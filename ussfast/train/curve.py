"""Learning curves of runs: python -m ussfast.train.curve RUN... -o FILE.png"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ussfast.atomic import atomic_write
from ussfast.errors import InputError, UssfastError
from ussfast.train.log import read_log


def plot(run_directories: Sequence[Path], output: Path) -> None:
    """Draws the training loss and the mean validation of runs over their steps, one colour per run.

    Args:
        output: an image; its suffix says which kind (.png, .svg, .pdf).
    Raises:
        InputError: a run without rows in its log, a kind of image that cannot be made, or matplotlib is missing.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("curves need matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(9, 4), layout="constrained")
    canvas = FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    for directory in run_directories:
        rows = read_log(Path(directory))
        if not rows:
            raise InputError(f"{directory}: no log.jsonl with rows in it")
        for axes, key in ((left, "loss"), (right, "mean")):
            points = [(row["step"], row[key]) for row in rows if row.get(key) is not None]
            axes.plot([x for x, _ in points], [y for _, y in points], label=Path(directory).resolve().name)
    left.set(xlabel="step", ylabel="training loss (dB)")
    right.set(xlabel="step", ylabel="SI-SDR improvement, mean over tasks (dB)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend()
    kinds = canvas.get_supported_filetypes()
    if output.suffix[1:].lower() not in kinds:
        raise InputError(f"{output}: images can be {', '.join(sorted(kinds))}")
    with atomic_write(output) as path:
        figure.savefig(path, dpi=120)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m ussfast.train.curve", description="Learning curves of runs.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders of ussfast train")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.png")
    options = parser.parse_args(arguments)
    try:
        plot(options.runs, options.output)
    except UssfastError as error:
        print(f"ussfast: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
