"""`ussfast tune`: a prompt that learns from example clips, kept in a file. Heavy imports happen inside."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.enroll import for_bank, sounds
from ussfast.cli.options import Device, Model, QueryDetector
from ussfast.cli.silence import silent_libraries

SAVE_SECONDS = 5.0  # from one better prompt on disk to the next


def tune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the sound is called from now on.")],
    clips: Annotated[list[str], typer.Argument(metavar="CLIP", help="Files or folders with the sound, little else.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The bank of prompts to add it to.")],
    background: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Files or folders of what to tell it from; some come with the package."),
    ] = None,
    start: Annotated[str, typer.Option(help="What it begins with: enrolled, or the name of a prompt.")] = "enrolled",
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after this long.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser, at most.")] = None,
    model: Model = "default",
    detector: QueryDetector = None,
    no_clips: Annotated[
        bool, typer.Option("--no-clips", help="Keep only the vector: ussfast prompts refresh needs the clips.")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a prompt of that name.")] = False,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Make a prompt that learns from example clips, for ussfast separate --bank FILE -p NAME.

    The model stays as it is. Ctrl-C keeps the best prompt so far.
    """
    context.with_resource(silent_libraries(quiet))
    from ussfast.cli import checks

    there = for_bank(name, output, model, device, detector, overwrite, clips=start == "enrolled")
    files, beside = sounds(clips), sounds(background) if background else None
    checks.text_file(output, files + (beside or []))

    from tqdm import tqdm

    from ussfast.separator import Separator

    separator = Separator(model, device=device, detector=detector)
    if there:
        separator.load_prompts(output)
    saved = [-float("inf")]

    def save() -> None:
        prompt = separator.prompts[name]
        if no_clips and prompt.origin is not None:  # of this prompt, not of the others in the bank
            separator.prompts.add(replace(prompt, origin=replace(prompt.origin, clips=())))
        separator.save_prompts(output)

    bar = tqdm(total=steps, disable=quiet or not sys.stderr.isatty(), desc="tuning", unit=" steps")

    def each(step: Any) -> None:
        bar.update(1)
        bar.set_postfix_str(f"loss {step.loss:.2f}, held-out SDR {step.best:.1f} dB", refresh=False)
        if step.sdr is not None and step.sdr == step.best and time.monotonic() - saved[0] > SAVE_SECONDS:
            save()
            saved[0] = time.monotonic()

    try:
        prompt = separator.tune(name, files, beside, start=start, steps=steps, minutes=minutes, on_step=each)
    except KeyboardInterrupt:
        if name in separator.prompts:  # the work was not for nothing
            save()
        raise
    finally:
        bar.close()
    save()
    if not quiet:
        print(f"{output}: {_told(name, prompt)}")


def _told(name: str, prompt: Any) -> str:
    tuning = prompt.origin.tuning
    gain = f"held-out SDR {tuning.before:.1f} -> {tuning.after:.1f} dB in {tuning.steps} steps"
    return f"{name}, tuned: {gain}" if prompt.kind == "tuned" else f"{name}, as it began: tuning was no better ({gain})"
