"""`ussfast detect`. Heavy imports happen inside, after everything that can be checked without them."""

from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ussfast.cli.options import AsJson, DetectorModel, Device, Gap, Low, Minimum, Threshold
from ussfast.cli.silence import silent_libraries
from ussfast.cli.telling import complain, note
from ussfast.errors import InputError, UssfastError

if TYPE_CHECKING:
    from ussfast.cli.detected import Found
    from ussfast.detect.detector import Detector
    from ussfast.detect.events import Rules


class Precision(StrEnum):
    auto = "auto"
    float32 = "float32"
    fp32 = "fp32"
    bfloat16 = "bfloat16"
    bf16 = "bf16"


def detect(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Audio files, or folders to search.")],
    model: DetectorModel = None,
    device: Device = "auto",
    dtype: Annotated[Precision, typer.Option(help="auto is float32; bfloat16 is faster.")] = Precision.auto,
    threshold: Threshold = 0.5,
    low: Low = None,
    minimum: Minimum = 0.1,
    gap: Gap = 0.25,
    label: Annotated[
        list[str] | None, typer.Option("--label", "-l", metavar="NAME", help="Only this label; repeat for more.")
    ] = None,
    top: Annotated[
        int | None,
        typer.Option(metavar="N", min=1, help="Instead of events: the N labels with the highest scores of each file."),
    ] = None,
    as_json: AsJson = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print a table, one row for each event.")] = False,
    audacity: Annotated[bool, typer.Option("--audacity", help="Print a label track for Audacity; one file.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write that here instead of printing it.")
    ] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the events of one file into this .png, .pdf or .svg.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print results and errors only.")] = False,
) -> None:
    """Tell which sounds are in files, and when: one line for each event, from and to in seconds, and its score."""
    context.with_resource(silent_libraries(quiet))
    from ussfast.cli import checks
    from ussfast.cli.detected import Found, as_text, find, lines, write
    from ussfast.cli.progress import Bar
    from ussfast.detect.events import Rules

    forms = {"--json": as_json, "--csv": as_csv, "--audacity": audacity}
    if len(chosen := [name for name, given in forms.items() if given]) > 1:
        raise InputError(f"{' and '.join(chosen)}: choose one")
    rules = Rules(threshold, low, minimum, gap)
    if top is not None and (audacity or plot is not None):
        raise InputError(f"--top {top}: gives no events, which {'--audacity' if audacity else '--plot'} needs")
    name = checks.detector(model, device)
    files = find([checks.file_argument(text) for text in inputs])
    if audacity and len(files) > 1:
        raise InputError(f"--audacity: a label track belongs to one file, and here are {len(files)}")
    if plot is not None:
        checks.picture(plot, [file.path for file in files])
    if output is not None:
        checks.text_file(output, [file.path for file in files])

    at_once = not chosen and output is None  # lines are printed as soon as they are known
    if any(file.error is None for file in files):
        from ussfast.detect.detector import Detector

        detector = Detector(name, device=device, dtype=dtype.value)
        columns = detector.columns(label)  # an unknown label is an error before any file is read
        bar = Bar(files, "detecting", quiet or as_json)
        try:
            for file in files:
                if file.error is None:
                    _analyse(detector, file, rules, columns, top, partial(bar.update, file.path))
                    if at_once and file.error is None:
                        bar.print(lines(file, len(files) > 1))
        finally:
            bar.close()
    if plot is not None and files[0].error is None:
        _draw(files[0], plot)
    done: list[Found] = [file for file in files if file.error is None]
    if not at_once and (done or as_json):
        write(as_text(files, chosen[0] if chosen else "", top), output)
    if not (quiet or chosen or top):
        for file in done:
            if not file.events:
                note(f"{file.path}: no events above {rules.threshold:g}")
    failures = [file.error for file in files if file.error is not None]
    for error in failures:
        complain(error)
    if failures:
        raise typer.Exit(max(error.exit_code for error in failures))


def _analyse(
    detector: "Detector",
    file: "Found",
    rules: "Rules",
    columns: list[int],
    top: int | None,
    progress: Callable[[float], object],
) -> None:
    """Fills in what is in a file; what goes wrong is this file's error."""
    names = [detector.labels[c] for c in columns]
    try:
        if top is not None:
            scores = detector.tag(file.path, progress=progress)[columns]
            best = sorted(range(len(names)), key=lambda c: -scores[c])[:top]
            file.tags = [(names[c], float(scores[c])) for c in best]
        else:
            file.events = detector.detect(file.path, **asdict(rules), labels=names, progress=progress)
    except UssfastError as error:
        told = str(file.path) in str(error)
        file.error = error if told else type(error)(f"{file.path}: {error}")
    except Exception as error:  # a fault of ours is no reason to leave the other files alone
        file.error = UssfastError(f"{file.path}: failed unexpectedly: {type(error).__name__}: {error}")


def _draw(file: "Found", path: Path) -> None:
    from ussfast.audio import AudioReader, probe
    from ussfast.audio.naming import make_folders
    from ussfast.detect.picture import draw_events

    try:
        info = probe(file.path)
        seconds = info.seconds
        if seconds is None:  # its header does not say
            seconds = sum(block.shape[1] for block in AudioReader(file.path)) / info.sample_rate
        make_folders([path])
        draw_events(path, file.events, seconds, file.path.name)
    except UssfastError as error:
        file.error = error
