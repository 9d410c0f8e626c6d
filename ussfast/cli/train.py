"""`ussfast train`: a recipe at once, or one of the commands around the audio to train on."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ussfast.cli.finetune import Detector, Stem, Train
from ussfast.cli.groups import usually
from ussfast.cli.options import Device

app = typer.Typer(
    cls=usually("run"),
    no_args_is_help=True,
    subcommand_metavar="RECIPE --data MANIFEST ... | COMMAND [ARGS]...",
    help="Train a model, or prepare the audio for it. RECIPE alone means the command run.",
)


Clips = Annotated[
    Path,
    typer.Option(metavar="MANIFEST|FOLDER", help="manifest.json, or a folder with a subfolder of audio per label."),
]
Output = Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Run folder; resumed if it has one.")]
MaxMinutes = Annotated[float | None, typer.Option(help="Stop after this long, with a checkpoint.")]
Steps = Annotated[int | None, typer.Option(min=1, help="Of the whole run, in place of the recipe's.")]
Start = Annotated[
    Path | None, typer.Option(metavar="MODEL", help="Weights that a new run begins with, as from `train keep`.")
]


class Stage(StrEnum):
    pretrain = "pretrain"
    finetune = "finetune"
    scratch = "scratch"


class Augment(StrEnum):
    none = "none"
    pitch = "pitch"
    stretch = "stretch"
    incoherent = "incoherent"
    all = "all"


class By(StrEnum):
    prompt = "prompt"
    label = "label"


@app.command()
def run(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or 'default'.")],
    data: Annotated[Path, typer.Option(metavar="MANIFEST", help="manifest.json of the training audio.")],
    output: Output,
    max_minutes: MaxMinutes = None,
    steps: Steps = None,
    device: Device = "auto",
    start: Start = None,
    init: Annotated[
        Path | None, typer.Option(metavar="MODEL", help="Another model, of which a new run takes what fits by name.")
    ] = None,
) -> None:
    """Train a model; stops and resumes at checkpoints."""
    check(recipe, data, output, device, start or init)
    from ussfast.train.run import train_recipe

    train_recipe(recipe, data, output, max_minutes, device, steps, start, init=init)


@app.command(short_help="Train a model that says which sounds there are.")
def detector(
    data: Clips,
    output: Output,
    recipe: Annotated[str, typer.Argument(help="A YAML file of kind detector, or 'detector'.")] = "detector",
    max_minutes: MaxMinutes = None,
    steps: Steps = None,
    device: Device = "auto",
    start: Start = None,
) -> None:
    """Train a detector on clips of which only the label is known; stops and resumes at checkpoints."""
    check(recipe, data, output, device, start, folders=True)
    from ussfast.train.clip_runs import train_detector
    from ussfast.train.run import Job

    train_detector(Job(recipe, data, output, max_minutes, device, steps, start))


@app.command(short_help="Train a model that separates what a clip sounds like.")
def weak(
    data: Clips,
    output: Output,
    recipe: Annotated[str, typer.Argument(help="A YAML file of kind weak, or 'weak'.")] = "weak",
    detector: Annotated[
        str | None, typer.Option(metavar="DIR", help="Model directory of the detector, in place of the recipe's.")
    ] = None,
    max_minutes: MaxMinutes = None,
    steps: Steps = None,
    device: Device = "auto",
    start: Start = None,
) -> None:
    """Train a separator on clips of which only the label is known, with a detector; stops and resumes at checkpoints.

    The detector finds the part of a clip where its label is heard, and makes the vector that asks for a sound.
    """
    check(recipe, data, output, device, start, folders=True)
    if detector is not None:
        from ussfast.checkpoints.names import resolve

        resolve(detector)
    from ussfast.train.clip_runs import train_weak
    from ussfast.train.run import Job

    train_weak(Job(recipe, data, output, max_minutes, device, steps, start), detector)


@app.command(short_help="Train a model on stems, or fine-tune one that there is.")
def transfer(
    data: Annotated[
        Path, typer.Option(metavar="MANIFEST|FOLDER", help="manifest.json with songs, or a folder of stems.")
    ],
    output: Output,
    recipe: Annotated[str, typer.Argument(help="A YAML file of kind transfer, or 'transfer'.")] = "transfer",
    stage: Annotated[
        Stage | None,
        typer.Option(help="pretrain: a fresh embedding; finetune, usual with --from; scratch, usual without it."),
    ] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="MODEL", help="The model to begin with.")] = None,
    train: Annotated[Train, typer.Option(help="What of it learns.")] = Train.whole,
    augment: Annotated[Augment | None, typer.Option(help="In place of the recipe's.")] = None,
    stem: Stem = None,
    by: Annotated[By, typer.Option(help="What of a manifest's row a source is called after.")] = By.prompt,
    held: Annotated[float, typer.Option(help="Share that is validated on, of data without a split dev.")] = 0.2,
    stem_minutes: Annotated[float | None, typer.Option(min=0.001, help="Learn from the first so many only.")] = None,
    detector: Detector = None,
    max_minutes: MaxMinutes = None,
    steps: Steps = None,
    device: Device = "auto",
) -> None:
    """Train on recordings whose stems are there; stops and resumes at checkpoints.

    A fresh model is for the sources of the data. One with --from keeps its own, if they are called the same.
    """
    from ussfast.cli import checks

    checks.recipe(recipe)
    checks.stems(data)
    checks.engine(device, "auto", "auto")
    checks.blocked(output)
    if source is not None:
        checks.model(source, device)
    if detector is not None:
        checks.detector(detector)
    from ussfast.train.run import Job
    from ussfast.train.transfer_runs import TransferOptions, train_transfer

    usual = Stage.scratch if source is None else Stage.finetune
    options = TransferOptions(
        (stage or usual).value, source, train.value, augment.value if augment else None, tuple(stem or ()), by.value,
        held, stem_minutes, detector,
    )  # fmt: skip
    train_transfer(Job(recipe, data, output, max_minutes, device, steps), options)


def check(recipe: str, data: Path, output: Path, device: str, start: Path | None, folders: bool = False) -> None:
    """What can be wrong with a run before torch is needed. folders: whether data may be one."""
    from ussfast.cli import checks

    checks.recipe(recipe)
    if not (folders and data.is_dir()):
        checks.existing(data, "manifest or folder" if folders else "manifest")
    checks.engine(device, "auto", "auto")
    if start is not None:
        checks.model_directory(start)
    checks.blocked(output)


@app.command(short_help="Save a run's present weights, for another run to begin with.")
def keep(
    run: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder.")],
    output: Annotated[Path, typer.Argument(metavar="MODEL", help="Model directory to make or replace.")],
) -> None:
    """Save the weights of a run's newest checkpoint as they are, in float16: neither their mean nor the best ones.

    `train RECIPE --start MODEL` goes on from them, with fresh moments and the recipe's warm-up.
    """
    from ussfast.cli import checks

    checks.run_folder(run)
    from ussfast.train.export import keep_newest

    print(keep_newest(run, output, lambda line: print(f"ussfast: {line}", file=sys.stderr)))


@app.command(short_help="Save the mean of models of one run.")
def average(
    models: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="Model directories, two or more.")],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Model directory to make or replace.")],
) -> None:
    """Save the mean of the weights of models that left one run at different times, in float16.

    Each should have had its learning rate fall to the end. `ussfast evaluate` tells whether the mean is better.
    """
    from ussfast.train.mean_model import mean_model

    print(mean_model(models, output))


@app.command(short_help="List a data set's audio for training, or join such lists.")
def manifest(
    kind: Annotated[str, typer.Argument(metavar="KIND", help="A data set, or 'merge'; see docs/data.md.")],
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER|MANIFEST... OUTPUT", help="The data set, or manifests to join; the result."),
    ],
) -> None:
    """Write the manifest of a data set on this disk, or join manifests (KIND merge).

    KIND is musdb18hq, musdb18, fsd50k, esc50, vctk_demand, wham, fuss, dnr, slakh, bach10 or choirset.
    """
    from ussfast.data.prepare import join_manifests, write_manifest_of

    if kind == "merge":
        table, problems = join_manifests(paths)
    else:
        table, problems = write_manifest_of(kind, paths)
    _report(table, problems)


@app.command(short_help="Shrink a manifest's audio to a given size.")
def pack(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.json of the audio.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    max_size: Annotated[str, typer.Option(help="Of the whole folder: 40MiB, 40MB, 500KiB or bytes.")],
    rate: Annotated[int, typer.Option(help="Highest sample rate to keep, in Hz.")] = 32000,
    split: Annotated[list[str] | None, typer.Option(help="Only this split; repeat for more.")] = None,
    license_class: Annotated[list[str] | None, typer.Option(help="Only this class; repeat for more.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a pack that is there.")] = False,
) -> None:
    """Pack a manifest's audio into a folder of Ogg Vorbis files of a given size, with its own manifest."""
    from ussfast.data.prepare import pack_manifest

    _report(*pack_manifest(source, output, max_size, rate, split or (), license_class or (), overwrite))


@app.command(short_help="Put a share of a manifest's audio through lossy codecs.")
def coded(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.json of the audio.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    share: Annotated[float, typer.Option(help="Of the training items, 0 to 1.")] = 0.3,
    seed: Annotated[int, typer.Option(help="Which items, and how much they lose.")] = 0,
) -> None:
    """Encode a share of the training items as MP3 or Ogg Vorbis of low quality, with a manifest that has those instead.

    Train on DIR/manifest.json: what people bring has mostly been through a codec.
    """
    from tqdm import tqdm

    from ussfast.data.coded import code

    some, every = code(source, output, share, seed, lambda rows: tqdm(rows, "encoding", disable=None))
    print(f"{output / 'manifest.json'}: {every} items, {some} of them encoded")


@app.command(short_help="Make further voices of a manifest's recorded speech.")
def voices(
    source: Annotated[Path, typer.Argument(metavar="MANIFEST", help="manifest.json of the audio.")],
    output: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to make.")],
    share: Annotated[float, typer.Option(help="Of the recorded speech in the training split, 0 to 1.")] = 1.0,
    full_band: Annotated[float, typer.Option(help="Share of the new voices that are full-band, 0 to 1.")] = 0.5,
    seed: Annotated[int, typer.Option(help="Which items, and which voices.")] = 0,
) -> None:
    """Copy recorded speech with other pitch, melody and formants (WORLD), with a manifest of all there is then.

    Train on DIR/manifest.json: a model knows more voices for it. Needs `pip install 'ussfast[voices]'`.
    """
    from tqdm import tqdm

    from ussfast.data.voices import make_voices

    some, every = make_voices(source, output, share, full_band, seed, lambda rows: tqdm(rows, "voices", disable=None))
    print(f"{output / 'manifest.json'}: {every} items, {some} of them changed voices")


def _report(table: str, problems: list[str], shown: int = 10) -> None:
    """The table on standard output, what could not be used on standard error."""
    print(table)
    for problem in problems[:shown]:
        print(f"ussfast: left out: {problem}", file=sys.stderr)
    if len(problems) > shown:
        print(f"ussfast: left out: {len(problems) - shown} more files, {len(problems)} in all", file=sys.stderr)
