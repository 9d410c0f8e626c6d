"""`python -m fuzz`: figures of every target, findings, and the command that repeats each."""

import math
import sys
from typing import Annotated

import typer

from fuzz.harness import TARGETS, fuzz


def main(
    targets: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(TARGETS)}; all if none is named.")] = None,
    minutes: Annotated[float | None, typer.Option(help="In all, the same for every target.")] = None,
    inputs: Annotated[int, typer.Option(help="Of each target, at most.")] = 10**9,
    seed: Annotated[int, typer.Option(help="Other seeds are other inputs.")] = 0,
    first: Annotated[int, typer.Option(help="Number of the first input.")] = 0,
    only: Annotated[int | None, typer.Option(help="This input alone.")] = None,
) -> None:
    """Gives random inputs to the package. Exits with 1 if any was found that ends otherwise than it should."""
    names = targets or list(TARGETS)
    unknown = sorted(set(names) - set(TARGETS))
    if unknown:
        raise typer.BadParameter(f"there is no target {unknown[0]}; there are {', '.join(TARGETS)}")
    if minutes is None and inputs == 10**9 and only is None:
        minutes = 1.0
    found = 0
    for name in names:
        each = math.inf if minutes is None else 60 * minutes / len(names)
        start, count = (first, inputs) if only is None else (only, 1)
        outcome = fuzz(name, seed, start, count, each)
        found += len(outcome.found)
        print(
            f"{name}: {outcome.inputs} inputs in {outcome.seconds:.0f} s, {outcome.taken} taken, "
            f"{outcome.refused} refused, {len(outcome.found)} found",
            flush=True,
        )
        for number, text in outcome.found.items():
            print(f"  python -m fuzz {name} --seed {seed} --only {number}\n    {text}", flush=True)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    typer.run(main)
