"""`ussfast separate`. Heavy imports happen inside, after everything that can be checked without them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.options import (
    TEMPLATE,
    AsJson,
    Backend,
    Bank,
    Batch,
    BitDepth,
    Bitrate,
    Channels,
    Clip,
    Device,
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
    Quiet,
    Residual,
    Segment,
    Stem,
    Stitch,
    Stitching,
    SumToMixture,
    Task,
    Template,
)  # fmt: skip
from ussfast.cli.silence import silent_libraries
from ussfast.cli.telling import complain, note, warn
from ussfast.errors import UssfastError


def separate(
    context: typer.Context,
    inputs: Annotated[list[str], typer.Argument(metavar="INPUT", help="Audio files, or folders to search.")],
    prompt: Prompts = None,
    task: Task = None,
    query: Query = None,
    example: Example = None,
    bank: Bank = None,
    everything: Annotated[
        bool, typer.Option("--everything", help="Detect which sounds there are, and separate each; --residual too.")
    ] = False,
    threshold: Annotated[
        float | None, typer.Option(help="With --everything: a sound has a score above this; 0.5 if not given.")
    ] = None,
    top: Annotated[
        int | None, typer.Option(metavar="N", help="With --everything: the N surest sounds at most; 8 if not given.")
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="A model directory: makes prompts of clips where the model cannot, hears for --everything.",
        ),
    ] = None,
    stem: Stem = None,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Where stems go.")] = Path("separated"),
    model: Model = "default",
    device: Device = "auto",
    dtype: Dtype = "auto",
    backend: Backend = "auto",
    segment: Segment = None,
    overlap: Overlap = None,
    stitch: Stitching = None,
    look_ahead: LookAhead = None,
    batch: Batch = None,
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
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw mixture and stems into this .png, .pdf or .svg.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Files to work on at the same time.")] = 1,
    skip_existing: Annotated[bool, typer.Option("--skip-existing", help="Leave finished inputs alone.")] = False,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Separate files into stems, at their own rate, length and channel count."""
    context.with_resource(silent_libraries(quiet))
    from ussfast.audio import OutputFormat
    from ussfast.audio.jobs import plan
    from ussfast.audio.naming import stem_paths
    from ussfast.cli import checks
    from ussfast.cli.everything import Everything
    from ussfast.cli.many_files import Result, separate_all, unreadable
    from ussfast.cli.queries import Queries
    from ussfast.separation import choose, output_labels

    named, kept = checks.asked(prompt, task)
    whole = Everything.of(everything, threshold, top, {"-p": prompt, "--task": task, "--query": query,
                                                       "--example": example, "--bank": bank})  # fmt: skip
    queries = Queries.of(bank, query, example, detector)
    prompts = queries.asked(named)
    stems = stem or (kept and (*kept, *queries.clips))
    rest = residual if residual is not None else everything and stems is None
    written = OutputFormat(format, bit_depth, bitrate, quality, clip)
    checks.output_folder(output)
    given = [checks.file_argument(text, "ussfast stream -") for text in inputs]
    files, renamed = plan(given, output, template, written)
    if plot is not None:
        checks.picture(plot, [file.path for file in files])
    facts = checks.model(model, device, dtype, backend)
    if whole is not None:
        whole.check(facts, detector)
        stem_paths(output, template, ("one", "another"), "name", written)
    elif (labels := queries.labels(facts, prompts)) is not None:
        keep, more = choose(labels, rest, stems)
        stem_paths(output, template, output_labels([labels[i] for i in keep], more), "name", written)
    checks.windows(facts, segment, overlap, stitch, look_ahead, batch, quiet)

    if renamed is not None and not quiet:
        note(renamed)

    errors = unreadable(files)
    if errors is not None:  # nothing to separate: no need to wait for torch
        results = [Result(job, (), error=error) for job, error in zip(files, errors, strict=True)]
    else:
        from ussfast.separator import Separator

        # Models that make prompts of clips themselves take no detector to do it.
        alone = whole is not None and facts is not None and bool(facts.prompts)
        separator = Separator(
            model, device=device, dtype=dtype, backend=backend, segment=segment, overlap=overlap,
            stitch=(stitch or Stitch.fade).value, look_ahead=look_ahead, batch=batch, max_attenuation=max_attenuation,
            sum_to_mixture=sum_to_mixture, channels=channels.value, detector=None if alone else detector,
        )  # fmt: skip
        asked: Any = prompts
        if whole is not None:
            asked = whole.finder(separator, detector if alone else None)
        else:
            queries.give(separator, prompts, quiet)
            separator.labels(prompts)  # missing prompts are an error before any file is read
        options = {
            "template": template, "residual": rest, "format": written, "skip_existing": skip_existing, "stems": stems,
        }  # fmt: skip
        results = separate_all(
            separator, files, asked, jobs_at_once=jobs, quiet=quiet or as_json, options=options, keep=queries.files
        )
    if plot is not None:
        _draw(results[0], plot)
    _report(results, quiet, as_json, plot)


def _draw(result: Any, path: Path) -> None:
    """Draws what was separated; what goes wrong is this input's error."""
    from ussfast.audio import draw_files
    from ussfast.audio.naming import make_folders

    if result.error is None:
        try:
            make_folders([path])
            draw_files(path, result.job.path, list(zip(result.labels, result.outputs, strict=True)))
        except UssfastError as error:
            result.error = error


def _report(results: list, quiet: bool, as_json: bool, plot: Path | None = None) -> None:
    """Prints where stems are and what went wrong; exits with the worst error's code."""
    if as_json:
        print(json.dumps([result.as_dict() for result in results], indent=1))
    elif not quiet:
        for result in results:
            for warning in result.outputs.warnings:
                warn(f"{result.job.path}: {warning}")
    if not quiet and not as_json:
        for result in results:
            for path in result.outputs:
                print(path)
        if plot is not None and results[0].error is None:
            print(plot)
    failures = [result.error for result in results if result.error is not None]
    for error in failures:
        complain(error)
    if failures:
        raise typer.Exit(max(error.exit_code for error in failures))
