"""`ussfast train remix`: from mixtures alone."""

from pathlib import Path
from typing import Annotated

import typer

from ussfast.cli.options import Device
from ussfast.cli.train import MaxMinutes, Output, Start, Steps, app, check


@app.command(short_help="Train a model that separates, from mixtures alone.")
def remix(
    data: Annotated[
        Path,
        typer.Option(metavar="FOLDER|MANIFEST", help="Mixtures: every audio file in a folder, or row of a manifest."),
    ],
    output: Output,
    recipe: Annotated[str, typer.Argument(help="A YAML file of kind remix, or 'remix'.")] = "remix",
    dev: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER|MANIFEST", help="Pieces with stems, for validation alone."),
    ] = None,
    method: Annotated[
        str | None, typer.Option(metavar="self-remixing|remixit", help="In place of the recipe's.")
    ] = None,
    teacher: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="What the teacher begins with; by default as --start.")
    ] = None,
    max_minutes: MaxMinutes = None,
    steps: Steps = None,
    device: Device = "auto",
    start: Start = None,
) -> None:
    """Train a separator from recordings of which no source is known; stops and resumes at checkpoints.

    A teacher takes mixtures apart, its estimates are mixed anew, and a student takes those apart: see docs/remix.md.
    """
    check(recipe, data, output, device, start, folders=True)
    from ussfast.cli import checks

    checks.remixing(method, teacher, dev)
    from ussfast.train.remix_run import RemixOptions, train_remix
    from ussfast.train.run import Job

    options = RemixOptions(method, teacher, dev)  # type: ignore[arg-type]
    train_remix(Job(recipe, data, output, max_minutes, device, steps, start), options)
