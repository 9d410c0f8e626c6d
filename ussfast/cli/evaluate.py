"""`ussfast evaluate`: how good models are. Heavy imports happen inside, after what can be checked without them."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.groups import usually
from ussfast.cli.options import AsJson, DetectorModel, Device, Gap, Low, Minimum, Model, Threshold
from ussfast.cli.telling import note
from ussfast.errors import InputError

app = typer.Typer(
    cls=usually("separation"),
    no_args_is_help=True,
    subcommand_metavar="--data MANIFEST ... | COMMAND [ARGS]...",
    help="Measure how good a model is. Options alone mean the command separation.",
)

Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="For evaluation.json, .md and .png.")
]


@app.command(short_help="Measure a model that separates: SI-SDR, SDR and SNR per task and prompt.")
def separation(
    data: Annotated[Path, typer.Option(metavar="MANIFEST", help="manifest.json with a dev split.")],
    model: Model = "default",
    device: Device = "auto",
    count: Annotated[int, typer.Option(min=1, help="Mixtures per task.")] = 40,
    oracle: Annotated[bool, typer.Option("--oracle", help="Also measure ideal masks: upper bounds.")] = False,
    baseline: Annotated[str | None, typer.Option(help="'mixture': also measure the mixture as estimate.")] = None,
    split: Annotated[str, typer.Option(help="All of the manifest's dev split, or a half: 'dev' or 'test'.")] = "all",
    output: Output = None,
    as_json: AsJson = False,
) -> None:
    """Measure a model on the development mixtures of a manifest: SI-SDR, SDR and SNR per task and prompt."""
    from ussfast.cli import checks

    checks.evaluation(baseline, split)
    checks.existing(data, "manifest")
    checks.model(model, device)
    from ussfast.audio.naming import check_inputs_stay, identities
    from ussfast.evaluate import report
    from ussfast.evaluate.run import evaluate_model

    if output is not None:
        check_inputs_stay([output / name for name in report.FILES], identities([data]))

    def ready() -> None:  # what cannot be written is an error before the work, and bad input before any folder is made
        if output is not None:
            report.prepare(output)

    found = evaluate_model(model, data, device, count, oracle, baseline, ready, split)
    _tell(found, report, report.mean_improvements, output, as_json)


@app.command(short_help="Measure a detector: F-scores of events, and mean average precision of tags.")
def detect(
    data: Annotated[
        Path | None, typer.Option(metavar="MANIFEST", help="manifest.json with a dev split: scenes are made of it.")
    ] = None,
    references: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or a table as of DCASE: filename, onset, offset, event_label.")
    ] = None,
    audio: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the files of --references are; beside it if not given.")
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(metavar="RECIPE", help="For --data: of a detector, whose labels say what its items are called."),
    ] = None,
    model: DetectorModel = None,
    device: Device = "auto",
    count: Annotated[int, typer.Option(min=1, help="Scenes, for --data.")] = 100,
    threshold: Threshold = 0.5,
    low: Low = None,
    minimum: Minimum = 0.1,
    gap: Gap = 0.25,
    collar: Annotated[
        float, typer.Option(metavar="SECONDS", help="How far an onset or offset may be from the right one.")
    ] = 0.2,
    length_share: Annotated[
        float, typer.Option(metavar="SHARE", help="An offset may also be so far off, as a share of the event.")
    ] = 0.2,
    segment: Annotated[float, typer.Option(metavar="SECONDS", help="Length of segments.")] = 1.0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="DIR", help="For evaluation.json and .md.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a detector: event-based and segment-based F-scores, and mean average precision of tags.

    --data makes scenes of the manifest's dev split, in which the events are known, and takes its clips for the tags.
    --references is a table of events in recordings of your own. Needs `pip install 'ussfast[detect-eval]'`.
    """
    from ussfast.cli import checks
    from ussfast.detect.events import Rules

    if (data is None) == (references is None):
        raise InputError("give either --data MANIFEST or --references FILE")
    if audio is not None and references is None:
        raise InputError(f"--audio {audio}: is for the files of --references")
    if labels is not None and data is None:
        raise InputError(f"--labels {labels}: is for the items of --data")
    rules = Rules(threshold, low, minimum, gap)
    if data is not None:
        checks.existing(data, "manifest")
    if references is not None:
        checks.existing(references, "table of events")
    if labels is not None:
        checks.recipe(labels)
    name = checks.detector(model, device)
    from ussfast.audio.naming import check_inputs_stay, identities
    from ussfast.evaluate import detection, detection_report
    from ussfast.train.clip_recipes import load_detector_recipe

    measure = detection.Measure(collar, length_share, segment)
    given = data or references
    assert given is not None
    if output is not None:
        check_inputs_stay([output / name for name in detection_report.FILES], identities([given]))

    def ready() -> None:
        if output is not None:
            detection_report.prepare(output)

    if data is not None:
        called = load_detector_recipe(labels).labels if labels is not None else ()
        found = detection.evaluate_manifest(name, data, device, count, rules, measure, ready, called)
    else:
        found = detection.evaluate_references(name, given, audio, device, rules, measure, ready)
    if found.left_out:
        note(f"labels that the detector does not know are left out: {detection_report.named(found.left_out, 10)}")
    _tell(found, detection_report, detection_report.summary, output, as_json)


def _tell(found: Any, report: Any, summary: Any, output: Path | None, as_json: bool) -> None:
    """Writes the files, if they are wanted, and prints what it comes to."""
    paths = report.write(found, output) if output is not None else []
    if as_json:
        print(json.dumps(summary(found), indent=1))
    elif output is not None:
        print("\n".join(map(str, paths)))
    else:
        print(report.table(found))
