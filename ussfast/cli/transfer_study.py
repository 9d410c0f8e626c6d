"""`ussfast evaluate transfer`. Heavy imports happen inside, after what can be checked without them."""

import json
from pathlib import Path
from typing import Annotated

import typer

from ussfast.cli.options import AsJson, Device
from ussfast.cli.silence import silent_libraries
from ussfast.errors import InputError


def transfer(
    context: typer.Context,
    downstream: Annotated[
        list[str], typer.Option(metavar="NAME=PATH", help="Manifest or folder with few stems; repeat for more.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For runs and results; a later call goes on.")
    ],
    pretrain: Annotated[
        list[str] | None, typer.Option(metavar="NAME=PATH", help="The same with many stems, to begin with; repeat.")
    ] = None,
    stems: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=STEM,...", help="Only these of a data set, such as drums,bass,other; repeat."),
    ] = None,
    augment: Annotated[
        str, typer.Option(metavar="NAME,...", help="Conditions: of none, pitch, stretch and incoherent.")
    ] = "none,pitch,stretch,incoherent",
    train: Annotated[
        str, typer.Option(metavar="NAME,...", help="Of whole, mask, head, lora (what is fine-tuned) and scratch.")
    ] = "whole,mask,scratch",
    recipe: Annotated[str, typer.Option(help="A YAML file of kind transfer, or 'transfer'.")] = "transfer",
    pretrain_steps: Annotated[int, typer.Option(min=1, help="Of each pre-training.")] = 20000,
    finetune_steps: Annotated[int, typer.Option(min=1, help="Of each fine-tuning; scratch takes the sum.")] = 2500,
    samples: Annotated[int, typer.Option(min=1, help="Excerpts of held-out recordings that are measured.")] = 1000,
    apart: Annotated[
        bool, typer.Option("--apart", help="Measure all that do not overlap instead: for tests on little data.")
    ] = False,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of an excerpt.")] = 5.0,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of each, with a seed of their own.")] = 1,
    only: Annotated[
        str | None, typer.Option(metavar="PATTERN,...", help="Do these cells only, such as 'whole-*-none-0'.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the excerpts.")] = 0,
    max_minutes: Annotated[float | None, typer.Option(help="Stop after this long; the same call goes on.")] = None,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: AsJson = False,
) -> None:
    """The transfer study: pre-training with deep clustering, fine-tuning, and models from scratch with as many steps.

    Every cell is a run folder that is gone on with; with other sets, conditions or seeds, those are added.
    """
    from ussfast.cli import checks
    from ussfast.evaluate.transfer_cells import AUGMENTS, TRAINED, chosen, named, stems_of

    sets = named(pretrain or [], "--pretrain"), named(downstream, "--downstream")
    if both := sorted(sets[0].keys() & sets[1].keys()):
        raise InputError(f"--downstream {both[0]}: is the name of a --pretrain, too; choose another one")
    wanted = stems_of(stems or [], [*sets[0], *sets[1]])
    conditions, trained = chosen(augment, AUGMENTS, "--augment"), chosen(train, TRAINED, "--train")
    if not sets[0] and trained != ("scratch",):
        raise InputError("give --pretrain NAME=PATH, or --train scratch alone")
    checks.recipe(recipe)
    for place in (*sets[0].values(), *sets[1].values()):
        if not place.is_dir():
            checks.existing(place, "manifest or folder")
    checks.engine(device, "auto", "auto")
    checks.blocked(output)
    from ussfast.evaluate import transfer_report
    from ussfast.evaluate.transfer import StudyConfig
    from ussfast.train.study import Plan, carry_out

    config = StudyConfig(pretrain_steps, finetune_steps, None if apart else samples, seconds, seed)
    patterns = [part.strip() for part in (only or "").split(",") if part.strip()]
    context.with_resource(silent_libraries(quiet))
    plan = Plan(*sets, conditions, trained, seeds, wanted, patterns)
    found = carry_out(plan, config, recipe, output, device, max_minutes, quiet or as_json)
    paths = transfer_report.write(found, output)
    if as_json:
        print(json.dumps(transfer_report.summary(found), indent=1))
    elif not quiet:
        print(transfer_report.table(transfer_report.lines(found)), "", *paths, sep="\n")
