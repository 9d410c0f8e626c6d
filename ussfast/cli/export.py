"""`ussfast export` and `python -m ussfast.export`: models for other runtimes. Heavy imports happen inside."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.errors import InputError


class Precision(StrEnum):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    int8 = "int8"


class Mode(StrEnum):
    offline = "offline"
    step = "step"


def export(
    model: Annotated[
        str, typer.Argument(metavar="[MODEL]", help="default, detector, a model directory, or owner/name on the Hub.")
    ] = "default",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="A new or empty directory.  [required]")
    ] = None,
    onnx: Annotated[bool, typer.Option("--onnx", help="ONNX graphs, for onnxruntime and others.")] = False,
    trt: Annotated[bool, typer.Option("--trt", help="ONNX graphs, and TensorRT engines of them for this GPU.")] = False,
    aoti: Annotated[bool, typer.Option("--aoti", help="Packages of AOTInductor, for C++ on libtorch.")] = False,
    precision: Annotated[
        Precision, typer.Option(help="Of weights and matrix products; norms and softmax are float32.")
    ] = Precision.fp32,
    mode: Annotated[
        list[Mode] | None,
        typer.Option(help="offline: many frames at once. step: hop by hop (causal models). All that it has."),
    ] = None,
    max_seconds: Annotated[float, typer.Option(metavar="S", help="Of audio at once, at most.")] = 30.0,
    max_prompts: Annotated[int, typer.Option(metavar="N", help="At once, at most.")] = 8,
    batch: Annotated[int, typer.Option(metavar="N", help="Items at once, at most.")] = 4,
    with_stft: Annotated[
        bool, typer.Option("--with-stft", help="Audio goes in and comes out offline, too, instead of spectra.")
    ] = False,
    calibration: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="For int8: audio as it will be; else the package's own.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Hold what onnxruntime gives to PyTorch.")] = False,
    device: Annotated[str, typer.Option(help="Of packages (--aoti): cpu or cuda.")] = "cpu",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an export in that directory.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
) -> None:
    """Export a model for other runtimes: ussfast separate -m DIR runs them, and so do hosts in any language.

    Prompt vectors are inputs: a prompt that is tuned later needs no new export.
    """
    kinds = [name for name, on in (("--onnx", onnx), ("--trt", trt), ("--aoti", aoti)) if on]
    if len(kinds) != 1:
        raise InputError(f"give one of --onnx, --trt and --aoti{', not ' + ' and '.join(kinds) if kinds else ''}")
    if output is None:
        raise InputError("give the directory to write: -o DIR")
    if aoti and (precision is not Precision.fp32 or check or calibration):
        raise InputError("packages of --aoti are fp32: leave out --precision, --calibration and --check")
    if calibration and precision is not Precision.int8:
        raise InputError("--calibration is for --precision int8")
    from ussfast.checkpoints.names import resolve
    from ussfast.cli import checks

    checks.blocked(output)
    resolve(model)
    # torch comes from here on
    from ussfast import export as exporting

    def told(line: str) -> None:
        if not quiet:
            print(line, file=sys.stderr)

    limits = exporting.Limits(max_seconds, max_prompts, batch)
    modes = [str(one) for one in mode] if mode else None
    shared: dict[str, Any] = {
        "modes": modes, "limits": limits, "with_stft": with_stft, "overwrite": overwrite, "told": told,
    }  # fmt: skip
    if aoti:
        exporting.export_aoti(model, output, device=device, **shared)
    else:
        exporting.export_onnx(model, output, precision=precision.value, calibration=calibration, check=check, **shared)
    if trt:
        from ussfast.export.trt.report import table

        told(table(exporting.build_engines(output, progress=not quiet)))
    told(f"{output}: {', '.join(sorted(path.name for path in output.iterdir()))}")
