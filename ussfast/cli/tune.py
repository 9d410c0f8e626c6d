"""`ussfast tune`: a prompt that learns from example clips, kept in a file. Heavy imports happen inside."""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.enroll import for_bank, new_prompt, sounds
from ussfast.cli.options import Device, Model, QueryDetector
from ussfast.cli.silence import silent_libraries

SAVE_SECONDS = 5.0  # from one better prompt on disk to the next


def tune(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="What the sound is called from now on.")],
    clips: Annotated[list[str], typer.Argument(metavar="CLIP", help="Files or folders with the sound, little else.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="The bank of prompts to add it to; with --joint a folder."),
    ],
    background: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH", help="Files or folders of what to tell it from; some come with the package."),
    ] = None,
    start: Annotated[str, typer.Option(help="What it begins with: enrolled, or the name of a prompt.")] = "enrolled",
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after this long.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Of the optimiser, at most.")] = None,
    find_lr: Annotated[bool, typer.Option("--find-lr", help="Look for a learning rate first.")] = False,
    joint: Annotated[
        bool, typer.Option("--joint", help="The model's weights learn too: -o is the new model's directory.")
    ] = False,
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
    from ussfast.cli.queries import told

    there = False
    if joint:
        new_prompt(name, model, device, detector, clips=start == "enrolled")
        checks.blocked(output)
    else:
        there = for_bank(name, output, model, device, detector, overwrite, clips=start == "enrolled")
    files, beside = sounds(clips), sounds(background) if background else None
    if not joint:
        checks.text_file(output, files + (beside or []))

    from tqdm import tqdm

    from ussfast.separator import Separator

    separator = Separator(model, device=device, detector=detector)
    if there:
        separator.load_prompts(output)
    bar = tqdm(total=steps, disable=quiet or not sys.stderr.isatty(), desc="tuning", unit=" steps")

    def shown(step: Any) -> None:
        bar.update(1)
        bar.set_postfix_str(f"loss {step.loss:.2f}, held-out SDR {step.best:.1f} dB", refresh=False)

    settings = {"steps": steps, "minutes": minutes, "find_lr": find_lr or None}
    given: dict[str, Any] = {key: value for key, value in settings.items() if value is not None}
    learn = _jointly if joint else _alone
    with told(quiet), bar:
        done = learn(
            separator, output, shown, name=name, clips=files, backgrounds=beside, start=start, no_clips=no_clips,
            overwrite=overwrite, **given,
        )  # fmt: skip
    if not quiet:
        print(f"{output}: {done}")


def _alone(
    separator: Any, output: Path, shown: Callable[[Any], None], *, name: str, no_clips: bool, overwrite: bool,
    **given: Any,
) -> str:  # fmt: skip
    """Adds the prompt to the bank, also while it gets better; returns what there is to say."""
    due = Due()

    def save() -> None:
        prompt = separator.prompts[name]
        if no_clips and prompt.origin is not None:  # of this prompt, not of the others in the bank
            separator.prompts.add(replace(prompt, origin=replace(prompt.origin, clips=())))
        separator.save_prompts(output)

    def each(step: Any) -> None:
        shown(step)
        if step.sdr is not None and step.sdr == step.best and due():
            save()

    try:
        prompt = separator.tune(name, on_step=each, **given)
    except KeyboardInterrupt:
        if name in separator.prompts:  # the work was not for nothing
            save()
        raise
    save()
    tuning = prompt.origin.tuning
    gain = f"held-out SDR {tuning.before:.1f} -> {tuning.after:.1f} dB in {tuning.steps} steps"
    return f"{name}, tuned: {gain}" if prompt.kind == "tuned" else f"{name}, as it began: tuning was no better ({gain})"


def _jointly(
    separator: Any, output: Path, shown: Callable[[Any], None], *, name: str, no_clips: bool, overwrite: bool,
    **given: Any,
) -> str:  # fmt: skip
    """Writes the model, also while it gets better; returns what there is to say."""
    from ussfast.checkpoints.store import check_target, place
    from ussfast.tuning.joint import save_jointly, tune_jointly

    check_target(place(output), overwrite)
    due, newest = Due(), list[Callable[[], Any]]()

    def save(made: Any) -> None:
        save_jointly(made, output, separator.info.path, clips=not no_clips, overwrite=True)

    def better(make: Callable[[], Any]) -> None:
        newest[:] = [make]
        if due():
            save(make())

    try:
        made = tune_jointly(separator, name, on_step=shown, on_better=better, **given)
    except KeyboardInterrupt:
        if newest:
            save(newest[0]())
        raise
    save(made)
    before, after = made.info.source["held_out_sdr"]
    return f"a model that knows {name}: held-out SDR {before:.1f} -> {after:.1f} dB"


class Due:
    """Says at most every SAVE_SECONDS that what is better is to be written."""

    def __init__(self) -> None:
        self._last = -float("inf")

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._last < SAVE_SECONDS:
            return False
        self._last = now
        return True
