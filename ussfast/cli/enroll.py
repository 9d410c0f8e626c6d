"""`ussfast enroll`: a prompt of example clips, kept in a file. Heavy imports happen inside."""

import os
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ussfast.cli.options import Device, Model, QueryDetector
from ussfast.cli.silence import silent_libraries
from ussfast.errors import InputError, PromptError


class Average(StrEnum):
    mean = "mean"
    robust = "robust"


def enroll(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the sound is called from now on.")],
    clips: Annotated[list[str], typer.Argument(metavar="CLIP", help="Files or folders with the sound, little else.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bank of prompts to add it to.")],
    model: Model = "default",
    detector: QueryDetector = None,
    average: Annotated[
        Average | None, typer.Option(help="Of several clips; robust leaves out clips unlike the others.")
    ] = None,
    no_clips: Annotated[
        bool, typer.Option("--no-clips", help="Keep only the vector: ussfast prompts refresh needs the clips.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a prompt of that name.")] = False,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a prompt of example clips of a sound, for ussfast separate --bank FILE -p NAME."""
    context.with_resource(silent_libraries(quiet))
    from ussfast.cli import checks
    from ussfast.cli.queries import told

    there = for_bank(name, output, model, device, detector, overwrite)
    files = sounds(clips)
    checks.text_file(output, files)

    from ussfast.separator import Separator

    separator = Separator(model, device=device, detector=detector)
    if there:
        separator.load_prompts(output)
    with told(quiet):
        prompt = separator.enroll(name, files, average=average.value if average else None)
    origin = prompt.origin
    assert origin is not None
    if no_clips:  # of this prompt, not of the others in the bank
        separator.prompts.add(replace(prompt, origin=replace(origin, clips=())))
    separator.save_prompts(output)
    if not quiet:
        many = "" if origin.count == 1 else "s"
        alike = "" if origin.agreement is None else f", mean cosine {origin.agreement.cosine:.2f}"
        print(f"{output}: {name}, {origin.count} clip{many}, {origin.seconds:.1f} s{alike}")


def for_bank(
    name: str, output: Path, model: str, device: str, detector: str | None, overwrite: bool, clips: bool = True
) -> bool:
    """Whether the bank is there; raises for what keeps a new prompt out of it.

    clips: whether the prompt's first vector is made of clips.
    """
    from ussfast.prompts.files import read_bank

    new_prompt(name, model, device, detector, clips)
    there = read_bank(output) if os.path.exists(output) else None
    if there is not None and name in (prompt.name for prompt in there.prompts) and not overwrite:
        raise InputError(f"{output}: has a prompt {name!r} already: choose another name, or --overwrite")
    return there is not None


def new_prompt(name: str, model: str, device: str, detector: str | None, clips: bool = True) -> None:
    """Raises for a prompt that cannot be made with a model; arguments as for `for_bank`."""
    from ussfast.cli import checks

    checks.new_name(name)
    facts = checks.model(model, device)
    if clips:
        checks.makes_prompts(facts, detector)
    if facts is not None and name in facts.prompts:
        raise PromptError(f"{name!r} is a prompt of model {facts.name!r} itself: choose another name")
    if detector is not None:
        checks.detector(detector)


def sounds(paths: list[str]) -> list[Path]:
    """The files that are meant by files and folders."""
    from ussfast.audio import find_inputs
    from ussfast.cli import checks

    return [path for path, _ in find_inputs([checks.file_argument(text) for text in paths])]
