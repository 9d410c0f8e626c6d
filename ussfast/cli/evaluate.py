"""`ussfast evaluate`: how good models are. Heavy imports happen inside, after what can be checked without them."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from ussfast.cli.groups import usually
from ussfast.cli.options import AsJson, DetectorModel, Device, Gap, Low, Minimum, Model, QueryDetector, Threshold
from ussfast.cli.silence import silent_libraries
from ussfast.cli.telling import note
from ussfast.cli.transfer_study import transfer
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


class Backgrounds(StrEnum):
    others = "others"
    bundled = "bundled"


@app.command(short_help="Measure prompts of few clips, enrolled and tuned: median SDR per class.")
def apt(
    context: typer.Context,
    data: Annotated[
        Path, typer.Option(metavar="PATH", help="The folder of ESC-50 or MUSDB18 (WAV files), or a manifest.json.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="DIR", help="For results, which a later run goes on from.")
    ],
    shots: Annotated[
        str, typer.Option(metavar="N,...", help="Clips of a class; full means all there are.")
    ] = "1,5,10,full",
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help="Of mean, robust, tuned and joint, which tunes the model too.")
    ] = "mean,robust,tuned",
    model: Model = "default",
    detector: QueryDetector = None,
    labels: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Measure these classes only, mixed with all others.")
    ] = None,
    mixtures: Annotated[int, typer.Option(min=1, help="Of each class.")] = 40,
    seconds: Annotated[float, typer.Option(help="Of a mixture, at least 2.")] = 5.0,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Of tuning, at most; that of ussfast tune if not given.")
    ] = None,
    backgrounds: Annotated[
        Backgrounds, typer.Option(help="Tune against clips of the other classes, or what comes with the package.")
    ] = Backgrounds.others,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
    device: Device = "auto",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print errors only.")] = False,
    as_json: AsJson = False,
) -> None:
    """The experiment of audio prompt tuning: prompts of 1, 5, 10 and all clips of each class, in mixtures of two.

    The same command again goes on where it was stopped; with other classes, shots or methods it adds those.
    """
    context.with_resource(silent_libraries(quiet))
    from ussfast.cli import checks
    from ussfast.cli.queries import told
    from ussfast.evaluate.apt_cases import AptConfig, listed, methods_of, read_cases, shots_of

    numbers, asked = shots_of(shots), methods_of(methods)
    config = AptConfig(mixtures, seconds, backgrounds.value, steps, seed)
    checks.makes_prompts(checks.model(model, device), detector)
    if detector is not None:
        checks.detector(detector)
    checks.blocked(output)
    cases = read_cases(data)
    sounds = cases.chosen(None if labels is None else listed(labels))
    if cases.left_out and not quiet:
        note(
            f"classes without clips to learn from, or without any to test on, are left out: {', '.join(cases.left_out)}"
        )
    from ussfast.audio.naming import check_inputs_stay, identities
    from ussfast.evaluate import apt_report
    from ussfast.evaluate.apt import Experiment
    from ussfast.separator import Separator

    check_inputs_stay([output / name for name in apt_report.FILES], identities([data]))
    apt_report.prepare(output)
    separator = Separator(model, device=device, detector=detector)
    with told(quiet=True):  # the clips of a data set are what they are
        found = Experiment(separator, cases, config, output).run(sounds, numbers, asked, quiet)
    paths = apt_report.write(found, output)
    if as_json:
        print(json.dumps(apt_report.summary(found), indent=1))
    elif not quiet:
        print(apt_report.table(found), "", *paths, sep="\n")


app.command(short_help="Measure what pre-training on other stems is worth: the whole study.")(transfer)


def _tell(found: Any, report: Any, summary: Any, output: Path | None, as_json: bool) -> None:
    """Writes the files, if they are wanted, and prints what it comes to."""
    paths = report.write(found, output) if output is not None else []
    if as_json:
        print(json.dumps(summary(found), indent=1))
    elif output is not None:
        print("\n".join(map(str, paths)))
    else:
        print(report.table(found))
