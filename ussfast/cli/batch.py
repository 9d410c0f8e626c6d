"""`ussfast batch`. Heavy imports happen inside, after everything that can be checked without them."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ussfast.cli.options import (
    TEMPLATE,
    AsJson,
    Backend,
    Bank,
    BitDepth,
    Bitrate,
    Channels,
    Clip,
    Dtype,
    Example,
    Format,
    Linking,
    LookAhead,
    MaxAttenuation,
    Model,
    Overlap,
    Prompts,
    Quality,
    Query,
    QueryDetector,
    Quiet,
    Residual,
    Segment,
    Stem,
    Stitch,
    Stitching,
    SumToMixture,
    Task,
    Template,
)
from ussfast.cli.options import Batch as Windows
from ussfast.cli.silence import silent_libraries
from ussfast.cli.telling import note
from ussfast.errors import InputError

if TYPE_CHECKING:
    from ussfast.batch.places import Place
    from ussfast.batch.report import Report
    from ussfast.separator import Separator

FOLDER = ".ussfast-report"  # under the output, where none is asked for


def batch(
    context: typer.Context,
    inputs: Annotated[
        list[str] | None,
        typer.Argument(metavar="INPUT", help="Files, folders, patterns ('in/**/*.flac'), addresses (s3://...)."),
    ] = None,
    manifest: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="A path or address in a line, or JSON with it; a pattern for several files."),
    ] = None,
    prompt: Prompts = None,
    task: Task = None,
    query: Query = None,
    example: Example = None,
    bank: Bank = None,
    detector: QueryDetector = None,
    stem: Stem = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="DIR", help="Where stems go: a folder or an address.")
    ] = "separated",
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes, each with a core or a GPU; one for each there is.")
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option("--jobs", "-j", min=1, help="Files at a time in each; 8 on a GPU and 1 on a CPU if not given."),
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster, or auto for the one that this machine is in.")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(metavar="DIR", help=f"Folder for what became of each file; DIR/{FOLDER} of -o.")
    ] = None,
    redo: Annotated[bool, typer.Option("--redo", help="Also separate what is complete.")] = False,
    model: Model = "default",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    segment: Segment = None,
    overlap: Overlap = None,
    stitch: Stitching = None,
    look_ahead: LookAhead = None,
    batch: Windows = None,
    format: Format = None,
    bit_depth: BitDepth = None,
    bitrate: Bitrate = None,
    quality: Quality = None,
    clip: Clip = None,
    template: Template = TEMPLATE,
    residual: Residual = None,
    max_attenuation: MaxAttenuation = None,
    sum_to_mixture: SumToMixture = False,
    channels: Linking = Channels.independent,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate collections of any size, with Ray: many processes or machines; goes on where it was stopped."""
    context.with_resource(silent_libraries())  # Ray's own, too
    from ussfast.audio import OutputFormat
    from ussfast.audio.naming import stem_paths
    from ussfast.cli import checks
    from ussfast.cli.progress import Pace
    from ussfast.cli.queries import Queries
    from ussfast.separation import choose, output_labels

    if not inputs and not manifest:
        raise InputError("no inputs: give files, folders, patterns or addresses, or a --manifest FILE")
    named, kept = checks.asked(prompt, task)
    queries = Queries.of(bank, query, example, detector)
    prompts = queries.asked(named)
    stems = stem or (kept and (*kept, *queries.clips))
    written, rest = OutputFormat(format, bit_depth, bitrate, quality, clip), bool(residual)
    checks.installed("ray", "fsspec")
    from ussfast.batch.listing import Listing
    from ussfast.batch.places import Place
    from ussfast.batch.report import Report
    from ussfast.batch.run import Pool, run
    from ussfast.batch.task import Task as Work

    pool, folder = Pool(workers, jobs, address, device), Place(output)
    if folder.local:
        checks.output_folder(Path(folder.path))
    _check_clips(queries.files, folder)
    facts = checks.model(model, device, dtype, backend)
    if (labels := queries.labels(facts, prompts)) is not None:
        keep, more = choose(labels, rest, stems)
        stem_paths(Path(), template, output_labels([labels[i] for i in keep], more), "name", written)
    checks.windows(facts, segment, overlap, stitch, look_ahead, batch, quiet)

    def make() -> "Separator":
        from ussfast.separator import Separator

        separator = Separator(
            model, device="cpu", dtype=dtype, backend=backend, segment=segment, overlap=overlap,
            stitch=(stitch or Stitch.fade).value, look_ahead=look_ahead, batch=batch, max_attenuation=max_attenuation,
            sum_to_mixture=sum_to_mixture, channels=channels.value, detector=detector,
        )  # fmt: skip
        queries.give(separator, prompts, quiet)
        separator.labels(prompts)  # missing prompts are an error before any file is read
        return separator

    listing = Listing(inputs or (), manifest or (), folder, template, written, (lambda line: None) if quiet else note)
    work = Work(folder.text, prompts, template, rest, None if stems is None else tuple(stems), written, redo)
    told = Report(_report_folder(report, folder))
    bar = Pace(quiet or as_json)
    try:
        run(listing, work, make, told, pool, bar.update)
    finally:
        bar.close()
    _finish(told, as_json, quiet)


def _report_folder(asked: Path | None, output: "Place") -> Path:
    if asked is None and not output.local:
        raise InputError(f"--report DIR is needed, a folder of this machine: stems go to {output.text}")
    return asked or Path(output.path, FOLDER)


def _check_clips(files: Sequence[Path], output: "Place") -> None:
    """InputError for what prompts are made of, where a stem could take its place."""
    inside = os.path.join(os.path.realpath(output.path), "")
    for path in files if output.local else ():
        if os.path.realpath(path).startswith(inside):
            raise InputError(f"{path}: lies in the output folder {output.path}, where a stem could replace it")


def _finish(report: "Report", as_json: bool, quiet: bool) -> None:
    """Says how it went; exits with the worst error's code."""
    summary = report.summary
    if as_json:
        print(json.dumps(summary.as_dict() | {"report": str(report.folder)}, indent=1))
    elif not quiet:
        rate = f" at {summary.hours_per_hour:.1f} hours per hour" if summary.done else ""
        print(
            f"{summary.done} of {summary.inputs} files separated ({summary.audio_seconds / 3600:.2f} h{rate}), "
            f"{summary.skipped} were complete, {summary.failed} failed: {report.folder}"
        )
    for error in report.errors:
        note(error)
    if summary.failed > len(report.errors):
        note(f"{summary.failed - len(report.errors)} more errors are in {report.failures}")
    if summary.failed:
        raise typer.Exit(report.worst)
