"""`ussfast prompts`: what is in banks of prompts, and changes to them. Heavy imports happen inside."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.options import AsJson, Device, Model, QueryDetector

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Banks of prompts, as ussfast enroll makes them: list, merge, rename, refresh.",
)

Banks = Annotated[list[Path], typer.Argument(metavar="BANK", help="Files of prompts.")]
Bank = Annotated[Path, typer.Argument(metavar="BANK", help="A file of prompts.")]


@app.command("list")
def list_(banks: Banks, as_json: AsJson = False) -> None:
    """Tell which prompts are in banks, what they were made of, and for which model."""
    from ussfast.prompts.files import read_bank

    found = [read_bank(path) for path in banks]
    if as_json:
        print(json.dumps([_as_dict(info) for info in found], indent=1))
        return
    for info in found:
        print(f"{info.path}: model {info.model}, {info.bytes / 1024:.1f} KiB")
        width = max(len(prompt.name) for prompt in info.prompts)
        for prompt in info.prompts:
            print(f"  {prompt.name:{width}}  {_made_of(prompt)}")


def _made_of(prompt: Any) -> str:
    if prompt.average is None:
        return "a vector from elsewhere"
    many = "" if prompt.count == 1 else "s"
    kept = "kept" if prompt.clips else "not kept"
    by = "" if prompt.detector is None else f", by detector {prompt.detector}"
    how = f", {prompt.average}" if prompt.count > 1 else ""
    tuned = ""
    if prompt.kind == "tuned":
        learned = prompt.tuning
        gain = "" if learned is None else f": held-out SDR {learned.before:.1f} -> {learned.after:.1f} dB"
        tuned = f", tuned{gain}"
    return f"{prompt.count} clip{many}, {prompt.seconds:.1f} s{how}, {kept}{by}{tuned}"


def _as_dict(info: Any) -> dict[str, Any]:
    prompts = [
        asdict(prompt) | {"clips": len(prompt.clips), "clip_bytes": sum(prompt.clips)} for prompt in info.prompts
    ]
    return asdict(info) | {"path": str(info.path), "prompts": prompts}


@app.command()
def merge(
    banks: Banks,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="May be one of them.")],
) -> None:
    """Put the prompts of several banks of one model into one."""
    from ussfast.cli import checks
    from ussfast.prompts.files import merge as run

    checks.new_bank(output, banks)
    info = run(banks, output)
    print(f"{output}: {', '.join(prompt.name for prompt in info.prompts)}")


@app.command()
def rename(
    bank: Bank,
    old: Annotated[str, typer.Argument(metavar="OLD", help="Name of a prompt in it.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="What it is called from now on.")],
) -> None:
    """Give a prompt of a bank another name."""
    from ussfast.cli import checks
    from ussfast.prompts.files import rename as run

    checks.new_name(new)
    run(bank, old, new)


@app.command()
def refresh(
    bank: Bank,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Of the new bank; BANK itself if not given.")
    ] = None,
    model: Model = "default",
    detector: QueryDetector = None,
    device: Device = "auto",
) -> None:
    """Make the prompts of a bank anew, for another model, of the clips that it keeps."""
    from ussfast.cli import checks
    from ussfast.prompts.files import read_bank
    from ussfast.prompts.files import refresh as run

    checks.makes_prompts(checks.model(model, device), detector)
    if detector is not None:
        checks.detector(detector)
    read_bank(bank)
    if output is not None:
        checks.new_bank(output, [bank])

    from ussfast.separator import Separator

    info = run(bank, Separator(model, device=device, detector=detector), output)
    print(f"{info.path}: {', '.join(prompt.name for prompt in info.prompts)}")
