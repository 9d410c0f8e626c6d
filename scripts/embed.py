"""A trained model that won becomes the embedded default: weights, card, README.md and CHANGELOG.md, by one command.

    make embed MODEL=DIR OLD=before/evaluation.json NEW=after/evaluation.json
    make embed MODEL=DIR DATA=DATA/manifest.json        # evaluates both itself
    make embed MODEL=DIR DETECTOR=1 NEW=evaluation.json # a detector, with what `ussfast evaluate detect` said
    make embed MODEL=DIR DETECTOR=1 DATA=DATA/manifest.json LABELS=detector  # or says now; LABELS: a recipe, as there

The rule: of six figures (five tasks and the absent prompt, docs/training.md) the mean must rise, and none may fall by
more than 0.3 dB. Otherwise nothing is written, and the figures are printed. Everything is written, or nothing.
"""

import json
import os
import shutil
import sys
import uuid
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from ussfast.checkpoints.store import load_model, read_info, save_model
from ussfast.errors import InputError, UssfastError
from ussfast.evaluate import detection_report, report
from ussfast.evaluate.detection import evaluate_manifest
from ussfast.evaluate.run import evaluate_model
from ussfast.separator import Separator
from ussfast.train.clip_recipes import load_detector_recipe

sys.path.insert(0, str(Path(__file__).parent))
import embed_detector
import embed_text

ROOT = Path(__file__).parents[1]
DEFAULT = Path("ussfast/weights/default")
LARGEST_FALL_DB = 0.3
SAME = ("count", "seconds", "seed", "split", "sample_rate", "manifest")  # else two evaluations cannot be compared


def check(old: dict[str, float], new: dict[str, float]) -> list[str]:
    """What the rule has against the new figures; nothing if they won."""
    against = [
        f"{name} falls by {old[name] - new[name]:.2f} dB, more than {LARGEST_FALL_DB}"
        for name in new
        if not new[name] >= old[name] - LARGEST_FALL_DB
    ]
    rise = float(np.mean(list(new.values())) - np.mean(list(old.values())))
    return against if rise > 0 else [f"the mean does not rise: {rise:+.2f} dB", *against]


def comparable(old: dict[str, Any], new: dict[str, Any], names: tuple[str, str]) -> None:
    """Raises InputError for evaluations of other models than these two, or of different mixtures."""
    for evaluation, name, which in zip((old, new), names, ("old", "new"), strict=True):
        if evaluation.get("model") != name:
            raise InputError(f"the {which} evaluation is of {evaluation.get('model')!r}, not of {name!r}")
    for key in SAME:
        was, now = ((Path(str(e.get(key))).name if key == "manifest" else e.get(key)) for e in (old, new))
        if was != now:
            raise InputError(f"the two evaluations differ in {key}: {was!r} and {now!r}")


def evaluation_of(given: Path | None, model: Path, data: Path | None, count: int, split: str) -> dict[str, Any]:
    """A given evaluation.json, or one made now."""
    if given is not None:
        try:
            content: dict[str, Any] = json.loads(given.read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{given}: no evaluation: {error}") from None
        return content
    if data is None:
        raise InputError("give --old and --new (evaluation.json of both models), or --data to make them")
    return report.as_dict(evaluate_model(str(model), data, count=count, split=split))


def evaluation_of_detector(given: Path | None, model: Path, data: Path | None, labels: str | None) -> dict[str, Any]:
    """The same for a detector; labels: the recipe that says what items of the data are called."""
    if given is None and data is not None:
        called = load_detector_recipe(labels).labels if labels is not None else ()
        return detection_report.as_dict(evaluate_manifest(str(model), data, labels=called))
    return evaluation_of(given, model, None, 0, "")


def replace_all(pairs: list[tuple[Path, Path]]) -> None:
    """Renames each fresh file or folder onto its target; if one cannot be, all targets are as they were before."""
    done: list[tuple[Path | None, Path]] = []
    try:
        for fresh, target in pairs:
            kept = target.with_name(f".{target.name}-{uuid.uuid4().hex}") if target.exists() else None
            if kept:
                os.rename(target, kept)
            done.append((kept, target))
            os.rename(fresh, target)
    except BaseException:
        for kept, target in reversed(done):
            _remove(target)
            if kept:
                os.rename(kept, target)
        raise
    for kept, _ in done:
        if kept:
            _remove(kept)


def embed_as_detector(root: Path, model: Path, evaluation: dict[str, Any]) -> str:
    """Writes the model as the embedded detector of the tree at `root`; returns what it knows, and how well.

    Raises:
        InputError: as `embed_detector.write_fresh`; CheckpointError for a model that separates.
    """
    targets = (root / embed_detector.HOME, root / "CHANGELOG.md")
    fresh = [embed_detector.fresh_name(path) for path in targets]
    try:
        said, changes = embed_detector.write_fresh(root, model, evaluation, fresh[0])
        fresh[1].write_text(changes)
        replace_all(list(zip(fresh, targets, strict=True)))
    finally:
        for path in fresh:
            _remove(path)
    return said


def embed(root: Path, model: Path, old: dict[str, Any], new: dict[str, Any]) -> str:
    """Writes the model as the embedded default of the tree at `root`; returns the table of figures.

    Raises:
        InputError: the new model lost (with the figures), lacks CREDITS.md, or the evaluations cannot be compared.
    """
    target = root / DEFAULT
    loaded, info = load_model(model)
    # Only its name: the present default may be of an architecture that has gained parameters since.
    comparable(old, new, (read_info(target).name, info.name))
    figures = embed_text.figures(old), embed_text.figures(new)
    said = embed_text.comparison(*figures)
    if against := check(*figures):
        raise InputError(f"{model} does not become the default: {'; '.join(against)}\n{said}")
    if not (model / "CREDITS.md").is_file():
        raise InputError(f"{model}: CREDITS.md is missing: whose audio it was trained on must be told")
    targets = (target, root / "README.md", root / "CHANGELOG.md")
    fresh = [path.with_name(f".fresh-{uuid.uuid4().hex}") for path in targets]
    try:
        licence = json.loads((target / "config.json").read_text())["license"]
        settings = {"name": "default", "license": licence, "source": info.source, "dtype": torch.float16}
        save_model(fresh[0], loaded, **settings)
        megabytes = (fresh[0] / "model.safetensors").stat().st_size / 1e6
        facts = embed_text.facts_of(Separator(fresh[0], device="cpu"), megabytes)
        shutil.copyfile(model / "CREDITS.md", fresh[0] / "CREDITS.md")
        before = (target / "README.md").read_text()
        (fresh[0] / "README.md").write_text(embed_text.card(facts, new, figures[0], before))
        fresh[1].write_text(embed_text.readme((root / "README.md").read_text(), new))
        text = (root / "CHANGELOG.md").read_text()
        fresh[2].write_text(embed_text.changelog(text, *figures, facts))
        replace_all(list(zip(fresh, targets, strict=True)))
    finally:
        for path in fresh:
            _remove(path)
    return said


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def main(
    model: Annotated[Path, typer.Argument(help="Directory of the trained model.")],
    old: Annotated[Path | None, typer.Option(help="evaluation.json of the embedded default.")] = None,
    new: Annotated[Path | None, typer.Option(help="evaluation.json of MODEL.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="manifest.json, to make the evaluations that are not given.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Mixtures per task, for --data.")] = 40,
    split: Annotated[str, typer.Option(help="Of the dev split, for --data.")] = "all",
    detector: Annotated[bool, typer.Option("--detector", help="MODEL is one, which goes beside the default.")] = False,
    labels: Annotated[str | None, typer.Option(help="For --detector and --data: as for `evaluate detect`.")] = None,
    root: Annotated[Path, typer.Option(help="The tree to write to.")] = ROOT,
) -> None:
    """Makes a trained model the embedded default, if it is better; or the embedded detector."""
    try:
        if not (model / "config.json").is_file():
            raise InputError(f"{model}: no model directory")
        if detector:
            print(embed_as_detector(root, model, evaluation_of_detector(new, model, data, labels)))
            print("Written. Read the card's section Limits; make first-screen draws README.md's picture.")
            return
        evaluations = [
            evaluation_of(given, which, data, count, split) for given, which in ((old, root / DEFAULT), (new, model))
        ]
        print(embed(root, model, *evaluations))
    except UssfastError as error:
        print(f"error: {error}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print("Written. Read the card's section Limits again, docs/causal.md, and what README.md says of latency.")


if __name__ == "__main__":
    typer.run(main)
