"""`ussfast finetune`: a model learns from a user's stems. Heavy imports happen inside."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.options import Device
from ussfast.cli.silence import silent_libraries


class Train(StrEnum):
    whole = "whole"
    head = "head"
    mask = "mask"
    lora = "lora"


Stem = Annotated[
    list[str] | None, typer.Option("--stem", metavar="NAME", help="Only this source; repeat for more. All by default.")
]
Detector = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Makes vectors of the stems, for a model whose prompts are such."),
]


def finetune(
    context: typer.Context,
    model: Annotated[str, typer.Argument(help="default, a model directory, or owner/name on the Hub.")],
    stems: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder with one file per sound, or one such folder per recording.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="MODEL", help="Model directory to make.")],
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Of training, at most; 5 without --steps.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the run as a whole, instead.")] = None,
    train: Annotated[
        Train | None,
        typer.Option(help="What learns: a part that the model has, or all of it; head for the default, else whole."),
    ] = None,
    stem: Stem = None,
    detector: Detector = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a model of your own from one that there is and a few minutes of stems.

    The stems train the model's prompts of their names, or become new ones. A part of them is held out: the better one
    of the old and the new model on that is what you get. Run it again to go on; Ctrl-C keeps the best so far.
    """
    context.with_resource(silent_libraries(quiet))
    from ussfast.cli import checks

    facts = checks.model(model, device)
    checks.stems(stems)
    checks.blocked(output)
    if detector is not None:
        checks.detector(detector)

    from tqdm import tqdm

    from ussfast.train.finetune import finetune as run
    from ussfast.train.finetune import report, shown
    from ussfast.train.log import measured
    from ussfast.train.transfer_runs import TransferOptions

    bar = tqdm(total=steps, disable=quiet or not sys.stderr.isatty(), desc="fine-tuning", unit=" steps")

    def say(line: str) -> None:
        if not quiet:
            bar.write(line) if not bar.disable else print(line, flush=True)

    def row(values: dict[str, Any]) -> None:
        if (measure := measured(values)) is not None:
            say(f"step {values['step']}: {shown(values[measure.key])}")

    def step(values: dict[str, Any]) -> None:
        bar.update(1)
        bar.set_postfix_str(f"loss {values['loss']:.2f}", refresh=False)

    # What stands behind a trunk that sees no prompts can learn new ones and leave the old ones nearly as they were.
    part = train or (Train.head if facts is not None and facts.causal else Train.whole)
    options = TransferOptions(train=part.value, stems=tuple(stem or ()), detector=detector)
    if minutes is None and steps is None:
        minutes = 5.0
    with bar:
        found = run(
            model, stems, output, options, minutes=minutes, steps=steps, device=device, overwrite=overwrite, say=say,
            on_row=row, on_step=step,
        )  # fmt: skip
    if not quiet:
        print("\n".join(report(found, model)))
