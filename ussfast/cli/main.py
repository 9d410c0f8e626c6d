"""The command line. Heavy imports happen inside the commands: help answers at once."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli import stream as cli_stream
from ussfast.cli import train as cli_train
from ussfast.cli.options import AsJson, Backend, Channels, Device, Dtype, Linking, MaxAttenuation, Model, SumToMixture
from ussfast.errors import UssfastError

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Universal sound separation: name the sounds you want and get each one on its own track.",
)


class FileFormat(StrEnum):
    wav = "wav"
    flac = "flac"


class Stitch(StrEnum):
    fade = "fade"
    published = "published"


class CheckpointFormat(StrEnum):
    auto = "auto"
    tuss = "tuss"
    espnet = "espnet"
    sfc = "sfc"


class Weights(StrEnum):
    ema = "ema"
    raw = "raw"


@app.command()
def separate(
    inputs: Annotated[list[Path], typer.Argument(metavar="INPUT", help="Audio files, or folders to search.")],
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="A sound to separate; repeat for more.")
    ] = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where stems go.")] = Path("separated"),
    model: Model = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    segment: Annotated[float | None, typer.Option(help="Window for long audio, in seconds.")] = None,
    overlap: Annotated[float | None, typer.Option(help="Shared by neighbouring windows, in seconds.")] = None,
    stitch: Annotated[Stitch, typer.Option(help="How windows are joined.")] = Stitch.fade,
    look_ahead: Annotated[
        float | None, typer.Option(help="Right-hand context in seconds: windows as for live audio.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Windows to compute at once; 8 on a GPU and 1 on a CPU if not given.")
    ] = None,
    format: Annotated[FileFormat | None, typer.Option(help="Of the stems; WAV if nothing says otherwise.")] = None,
    bit_depth: Annotated[
        int | None, typer.Option(help="16, 24, or 32 (float, WAV only); 32 for WAV and 24 for FLAC if not given.")
    ] = None,
    template: Annotated[
        str, typer.Option(help="Names of stems under DIR: {name} of the input, {label}, {index}.")
    ] = "{name}/{label}.wav",
    residual: Annotated[bool, typer.Option("--residual", help="Also write what no stem took.")] = False,
    max_attenuation: MaxAttenuation = None,
    sum_to_mixture: SumToMixture = False,
    channels: Linking = Channels.independent,
    jobs: Annotated[int, typer.Option(min=1, help="Files to work on at the same time.")] = 1,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave finished inputs alone.")] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Separate files into stems, at their own rate, length and channel count."""
    from ussfast.cli.many_files import plan, separate_all
    from ussfast.separator import Separator

    files = plan(inputs, output, template)
    separator = Separator(
        model, prompt or (), device=device, dtype=dtype, backend=backend, segment=segment, overlap=overlap,
        stitch=stitch.value, look_ahead=look_ahead, batch=batch, max_attenuation=max_attenuation,
        sum_to_mixture=sum_to_mixture, channels=channels.value,
    )  # fmt: skip
    separator.labels()  # missing prompts are an error before any file is read
    results = separate_all(
        separator,
        files,
        jobs_at_once=jobs,
        quiet=quiet or as_json,
        options={
            "template": template,
            "residual": residual,
            "format": format.value if format else None,
            "bit_depth": bit_depth,
            "skip_existing": skip_existing,
        },
    )
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    failures = [result.error for result in results if result.error is not None]
    for error in failures:
        _complain(error)
    if failures:
        raise typer.Exit(max(error.exit_code for error in failures))
    if not quiet and not as_json:
        for result in results:
            for path in result.outputs:
                print(path)


app.command()(cli_stream.stream)


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the models that can be used without a download."""
    from ussfast.checkpoints import store as checkpoint
    from ussfast.models.presets import PRESETS

    found = checkpoint.available()
    if as_json:
        rows = [
            {"name": m.name, "architecture": m.architecture, "license": m.license, "sample_rate": m.sample_rate,
             "parameters": m.parameters, "prompts": list(m.prompts), "labels": list(m.labels)}
            for m in found
        ]  # fmt: skip
        print(json.dumps({"models": rows, "presets": sorted(PRESETS)}, indent=1))
        return
    for m in found:
        print(f"{m.name}  ({m.architecture}, {m.parameters / 1e6:.2f} M parameters, {m.sample_rate} Hz)")
        print(f"  license: {m.license}")
        print(f"  {'prompts' if m.prompts else 'sources'}: {', '.join(m.prompts or m.labels)}")
    if not found:
        print("no embedded or cached models")
    print(f"presets (random weights, for benchmarks): {', '.join(sorted(PRESETS))}")


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
    from ussfast.convert import convert as run

    info = run(
        source, destination, format=format.value, name=name, license=license, overwrite=overwrite, weights=weights.value
    )
    print(f"{destination}: {info.architecture}, {info.parameters / 1e6:.2f} M parameters, {info.sample_rate} Hz")


@app.command()
def info(as_json: AsJson = False) -> None:
    """Tell which kernels are in use, and why others are not."""
    import torch

    import ussfast
    from ussfast import _ext
    from ussfast.engine import graphs

    cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    rows, without = _ext.kernels(), graphs.why_not()
    if as_json:
        facts = {"version": ussfast.__version__, "torch": torch.__version__, "cuda": cuda, "isa": _ext.cpu_isa()}
        found = {"graphs": {"used": without is None, "why": without or ""}, "kernels": rows}
        print(json.dumps(facts | found, indent=1))
        return
    print(f"ussfast {ussfast.__version__}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(f"CUDA devices: {', '.join(cuda) or 'none'}")
    print(f"CUDA graphs: {'used' if without is None else f'not used ({without})'}")
    for row in rows:
        print(f"{row['op']:16} {row['device']:5} {row['kernel']}" + (f"  ({row['why']})" if row["why"] else ""))


@app.command()
def bench(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="As for separate, or a preset (random weights).")
    ] = "default",
    prompt: Annotated[
        list[str] | None, typer.Option("--prompt", "-p", help="Repeat for more; two of the model's if not given.")
    ] = None,
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
    """Measure speed: real-time factor, GFLOP/s, and the share of this machine's matrix-product rate."""
    if train:
        from ussfast.train.bench import run_training

        run_training(model, rounds, threads, as_json)
        return
    from ussfast.profiling.bench import run

    settings = {"device": device, "dtype": dtype, "backend": backend}
    run(model, prompt or (), seconds, rounds, threads, profile, as_json, **settings)


app.add_typer(cli_train.app, name="train")


@app.command()
def evaluate(
    data: Annotated[Path, typer.Option(metavar="MANIFEST", help="manifest.json with a dev split.")],
    model: Model = "default",
    device: Device = "auto",
    count: Annotated[int, typer.Option(min=1, help="Mixtures per task.")] = 40,
    oracle: Annotated[bool, typer.Option("--oracle", help="Also measure ideal masks: upper bounds.")] = False,
    baseline: Annotated[str | None, typer.Option(help="'mixture': also measure the mixture as estimate.")] = None,
    split: Annotated[str, typer.Option(help="All of the manifest's dev split, or a half: 'dev' or 'test'.")] = "all",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="For evaluation.json, .md and .png.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the development mixtures of a manifest: SI-SDR, SDR and SNR per task and prompt."""
    from ussfast.evaluate import report
    from ussfast.evaluate.run import evaluate_model

    def ready() -> None:  # what cannot be written is an error before the work, and bad input before any folder is made
        if output is not None:
            report.prepare(output)

    found = evaluate_model(model, data, device, count, oracle, baseline, ready, split)
    paths = report.write(found, output) if output is not None else []
    if as_json:
        print(json.dumps(report.mean_improvements(found), indent=1))
    elif output is not None:
        print("\n".join(map(str, paths)))
    else:
        print(report.table(found))


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where stems go.")] = Path("demo-out"),
    device: Device = "auto",
) -> None:
    """Separate a bundled recording with the embedded model and say how well it went."""
    from ussfast.demo import run

    run(output, device)


def _complain(error: BaseException) -> None:
    print(f"ussfast: {' '.join(str(error).split())}", file=sys.stderr)


def main(arguments: list[str] | None = None) -> Any:
    """Runs the command line; bad input exits with 2, failures with 1, an interrupt with 130."""
    try:
        app(arguments)
    except UssfastError as error:
        _complain(error)
        sys.exit(error.exit_code)
    except BrokenPipeError:
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


