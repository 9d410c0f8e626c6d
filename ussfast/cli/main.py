"""The command line. Heavy imports happen inside the commands: help answers at once."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

import ussfast
from ussfast.cli import batch as cli_batch
from ussfast.cli import detect as cli_detect
from ussfast.cli import enroll as cli_enroll
from ussfast.cli import evaluate as cli_evaluate
from ussfast.cli import export as cli_export
from ussfast.cli import finetune as cli_finetune
from ussfast.cli import prompts as cli_prompts
from ussfast.cli import remix as cli_remix  # noqa: F401, adds a command to those of train
from ussfast.cli import separate as cli_separate
from ussfast.cli import serve as cli_serve
from ussfast.cli import stream as cli_stream
from ussfast.cli import train as cli_train
from ussfast.cli import tune as cli_tune
from ussfast.cli.options import AsJson, Backend, Device, Dtype, Prompts
from ussfast.cli.telling import complain, printable
from ussfast.errors import UssfastError
from ussfast.interrupts import exit_code, unwinding


class _Commands(TyperGroup):
    """Says what is wrong with an option in plain words."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            # The library that reads options begins what it says of them with this.
            error.message = error.message.replace("Value error, ", "")
            raise
        except KeyboardInterrupt as interrupt:  # here, since the library makes 130 of any
            raise typer.Exit(exit_code(interrupt)) from interrupt


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Universal sound separation: name the sounds you want and get each one on its own track.",
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"ussfast {ussfast.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


class CheckpointFormat(StrEnum):
    auto = "auto"
    tuss = "tuss"
    espnet = "espnet"
    sfc = "sfc"
    zeroshot = "zeroshot"
    panns = "panns"
    htsat = "htsat"
    nussl = "nussl"


class Weights(StrEnum):
    ema = "ema"
    raw = "raw"


app.command()(cli_separate.separate)
app.command()(cli_batch.batch)
app.command()(cli_stream.stream)
app.command()(cli_serve.serve)
app.command()(cli_detect.detect)
app.command()(cli_enroll.enroll)
app.command()(cli_tune.tune)
app.command()(cli_finetune.finetune)
app.command()(cli_export.export)
app.add_typer(cli_prompts.app, name="prompts")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that can be used without a download, and the prompt sets of --task."""
    from ussfast.cli.models import show

    show(as_json)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(metavar="SRC", help="A published checkpoint: file or directory.")],
    destination: Annotated[Path, typer.Argument(metavar="DST", help="The model directory to make.")],
    format: Annotated[CheckpointFormat, typer.Option(help="Of the source.")] = CheckpointFormat.auto,
    name: Annotated[str | None, typer.Option(help="Of the model; DST's name by default.")] = None,
    license: Annotated[str | None, typer.Option(help="Of the weights, as their publisher says.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model that is there.")] = False,
    weights: Annotated[Weights, typer.Option(help="Which copy, where training left two.")] = Weights.ema,
) -> None:
    """Turn a published checkpoint into a model directory."""
    from ussfast.cli import checks

    checks.conversion(source, destination)
    from ussfast.convert import convert as run

    info = run(
        source, destination, format=format.value, name=name, license=license, overwrite=overwrite, weights=weights.value
    )
    print(f"{destination}: {info.architecture}, {info.parameters / 1e6:.2f} M parameters, {info.sample_rate} Hz")


@app.command()
def info(as_json: AsJson = False) -> None:
    """Tell which kernels are in use, and why others are not."""
    from ussfast.cli.info import show

    show(as_json)


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="As for separate, or a preset (random weights).")
    ] = "default",
    prompt: Prompts = None,
    seconds: Annotated[float, typer.Option(help="Of audio, in one window.")] = 6.0,
    rounds: Annotated[int, typer.Option(min=5, help="Medians are over so many runs.")] = 5,
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Of the CPU; PyTorch's choice if not given.")] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also tell where the time goes, by op.")] = False,
    train: Annotated[
        bool, typer.Option("--train", help="MODEL is a recipe: measure steps of training on the CPU instead.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed: real-time factor, GFLOP/s, and the share of this machine's matrix-product rate.

    Without -p it asks for two of the model's prompts.
    """
    from ussfast.cli import checks
    from ussfast.engine.threads import check_threads

    checks.engine(device, dtype, backend)
    if threads is not None:
        check_threads(threads)
    if train:
        checks.recipe(model)
        from ussfast.train.bench import run_training

        run_training(model, rounds, threads, as_json)
        return
    checks.model_or_preset(model)
    prompts, _ = checks.asked(prompt, None)
    from ussfast.profiling.bench import run

    settings = {"device": device, "dtype": dtype, "backend": backend}
    run(model, prompts, seconds, rounds, threads, profile, as_json, **settings)


app.add_typer(cli_train.app, name="train")
app.add_typer(cli_evaluate.app, name="evaluate")


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where stems go.")] = Path("demo-out"),
    device: Device = "auto",
) -> None:
    """Separate a bundled recording with the embedded model and say how well it went."""
    from ussfast.cli import checks

    checks.output_folder(output)
    checks.engine(device, "auto", "auto")
    from ussfast.demo import run

    run(output, device)


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; bad input exits with 2, failures with 1, signals with 128 and their number."""
    printable()
    with unwinding():
        try:
            app(arguments)
        except UssfastError as error:
            complain(error)
            sys.exit(error.exit_code)
        except BrokenPipeError:
            sys.exit(1)
        except KeyboardInterrupt as interrupt:
            sys.exit(exit_code(interrupt))
