"""What `ussfast evaluate apt` says: JSON, and Markdown tables beside the published averages."""

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ussfast
from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.evaluate import apt_plots
from ussfast.evaluate.apt import MOST_BACKGROUNDS, Found
from ussfast.evaluate.apt_store import Outcome
from ussfast.evaluate.tables import table_head, table_row
from ussfast.separation import make_folders

FILES = ("apt.json", "apt.md", "apt-classes.png", "apt-prompts.png")
PUBLISHED = "Liu et al., ICASSP 2024"
# Median SDR in dB of the mean embedding and of the tuned prompt, by data set and shots: the averages that the authors
# give, and the plain means of the figures that they give for each class.
AVERAGES: dict[str, dict[str, tuple[float, float]]] = {
    "esc50": {"1": (4.09, 4.57), "5": (5.59, 6.68), "10": (6.10, 7.59), "full": (6.44, 8.50)},
    "musdb18": {"full": (4.31, 4.98)},
}
PLAIN_MEANS = {"esc50": {"1": (3.40, 3.77), "5": (4.79, 6.07), "10": (5.15, 6.86), "full": (5.47, 7.89)}}
TITLES = {"esc50": "ESC-50", "musdb18": "MUSDB18"}
ENROLLED = ("mean", "robust")


def prepare(directory: Path) -> None:
    """Makes the folder for the files; OutputError where it cannot be, InputError where matplotlib is missing."""
    try:
        importlib.import_module("matplotlib")
    except ImportError:
        raise InputError("the plots of --output need matplotlib: pip install 'ussfast[evaluate]'") from None
    make_folders([directory / FILES[0]])


def write(found: Found, directory: Path) -> list[Path]:
    """Writes FILES into a folder that is there, each complete or not at all; returns the paths of those that there are.

    Without "mean" and "tuned" among the methods, no prompt has moved, and there is no picture of that.
    """
    paths = [directory / name for name in FILES]
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(json.dumps(as_dict(found), indent=1, allow_nan=False) + "\n")
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(markdown(found))
    written = paths[:2]
    for path, figure in zip(paths[2:], (apt_plots.classes(found), apt_plots.prompts(found)), strict=True):
        if figure is not None:
            with atomic_write(path) as temporary:
                figure.savefig(temporary, dpi=120)
            written.append(path)
    return written


def of_class(found: Found, name: str, shots: str, metric: str = "sdr") -> dict[str, float | None]:
    """Medians of a class in dB by method, and of "enrolled", the better one of mean and robust mean."""
    outcomes = found.outcomes[name][shots]
    medians = {method: outcomes[method].median(metric) for method in found.methods}
    known = [value for method in ENROLLED if (value := medians.get(method)) is not None]
    return medians | ({"enrolled": max(known)} if known else {})


def averages(found: Found, shots: str, metric: str = "sdr") -> dict[str, Any]:
    """Over the classes, for one number of shots.

    classes: how many; clips: the fewest and the most of one. mean_of_medians, over_mixtures: in dB by method, the mean
    over classes of their medians, and the median over all mixtures. gain: the former of tuned less that of enrolled,
    and better: in how many classes it is positive; None without both.
    """
    rows = {name: of_class(found, name, shots, metric) for name in found.outcomes}
    columns = [*found.methods, *(["enrolled"] if set(ENROLLED) & set(found.methods) else [])]
    counts = [one.clips for of in found.outcomes.values() for one in of[shots].values()]
    pooled: dict[str, float | None] = {}
    for column in columns:
        values = [value for name in rows for value in _outcome(found, name, shots, column, metric).values(metric)]
        pooled[column] = float(np.median(values)) if values else None
    gains = [gain for row in rows.values() if (gain := gain_of(row)) is not None]
    return {
        "classes": len(rows),
        "clips": [min(counts), max(counts)],
        "mean_of_medians": {c: _mean([row.get(c) for row in rows.values()]) for c in columns},
        "over_mixtures": pooled,
        "gain": _mean(gains),
        "better": sum(gain > 0 for gain in gains) if gains else None,
    }


def gain_of(row: dict[str, float | None]) -> float | None:
    """Tuned less enrolled, in dB."""
    tuned, enrolled = row.get("tuned"), row.get("enrolled")
    return None if tuned is None or enrolled is None else tuned - enrolled


def _outcome(found: Found, name: str, shots: str, column: str, metric: str) -> Outcome:
    outcomes = found.outcomes[name][shots]
    if column != "enrolled":
        return outcomes[column]
    there = [outcomes[method] for method in ENROLLED if method in outcomes]
    return max(there, key=lambda one: -np.inf if (median := one.median(metric)) is None else median)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def summary(found: Found) -> dict[str, Any]:
    """What it comes to, for --json: of each number of shots, and metric."""
    return {shots: {metric: averages(found, shots, metric) for metric in ("sdr", "snr")} for shots in found.shots}


def as_dict(found: Found) -> dict[str, Any]:
    """Settings, averages, medians of each class, published averages; single mixtures are in the folder of classes."""
    classes = {
        name: {
            shots: {
                "sdr": of_class(found, name, shots), "snr": of_class(found, name, shots, "snr"),
                "clips": {method: one.clips for method, one in of_shots.items()},
                "seconds": {method: one.seconds for method, one in of_shots.items()},
                "kept": {method: one.kept for method, one in of_shots.items() if one.kept is not None},
            }
            for shots, of_shots in of_class_.items()
        }
        for name, of_class_ in found.outcomes.items()
    }  # fmt: skip
    return {
        "ussfast": ussfast.__version__, "kind": "apt", "model": found.model, "detector": found.detector,
        "data": str(found.data.place), "layout": found.data.kind, "config": dataclasses.asdict(found.config),
        "left_out": found.data.left_out, "averages": summary(found), "classes": classes,
        "published": {"averages": AVERAGES, "plain_means": PLAIN_MEANS},
    }  # fmt: skip


def markdown(found: Found) -> str:
    """The file: what was measured, and the tables."""
    config, data = found.config, found.data
    by = "" if found.detector is None else f", vectors by {found.detector}"
    beside = "those that come with the package"
    if config.backgrounds == "others":
        beside = f"as many clips of each other class, {MOST_BACKGROUNDS} in all at most"
    steps = "" if config.steps is None else f", {config.steps} steps at most"
    about = (
        f"{len(found.outcomes)} of {len(data.classes)} classes of {data.place} ({TITLES.get(data.kind, data.kind)}), "
        f"{config.mixtures} mixtures of {config.seconds:g} s each: a test clip of the class and one of another class "
        f"at 0 dB. Backgrounds of tuning: {beside}{steps}. Seed {config.seed}; ussfast {ussfast.__version__}."
    )
    left = f"\n\nLeft out, without clips of both sorts: {', '.join(data.left_out)}." if data.left_out else ""
    return f"# Prompts of few clips: {found.model}{by}\n\n{about}{left}\n\n{table(found)}\n\n{_classes(found)}\n"


def table(found: Found) -> str:
    """Markdown tables of averages: means over classes, medians over mixtures, and both beside what is published."""
    parts = []
    for title, key, metric in (
        ("Mean over classes of the median SDR (dB)", "mean_of_medians", "sdr"),
        ("Median SDR over all mixtures (dB)", "over_mixtures", "sdr"),
        ("Mean over classes of the median SNR of whole mixtures (dB)", "mean_of_medians", "snr"),
    ):
        parts.append(f"{title}:\n\n" + "\n".join(_averages(found, key, metric)))
    note = (
        f"Published: {PUBLISHED}, the mean embedding -> the tuned prompt, of another model. Their average is not the "
        "plain mean of the figures that they give for single classes, which is lower: how it is taken is not said."
    )
    enrolled = "Enrolled: the better one of mean and robust mean, for each class."
    return "\n\n".join([*parts, f"{enrolled} {note}"])


def _averages(found: Found, key: str, metric: str) -> list[str]:
    rows = {shots: averages(found, shots, metric) for shots in found.shots}
    columns = list(next(iter(rows.values()))[key])
    both = {"tuned", "enrolled"} <= set(columns)
    kind = found.data.kind if found.data.kind in AVERAGES else "esc50"
    published = [f"published ({TITLES[kind]})", *(["plain mean of its classes"] if kind in PLAIN_MEANS else [])]
    lines = table_head("shots", "clips", *columns, *(["gain", "better in"] if both else []), *published)
    for shots, row in rows.items():
        least, most = row["clips"]
        cells = [_cell(row[key][column]) for column in columns]
        if both:
            gain = row[key]["tuned"], row[key]["enrolled"]
            cells += [_cell(None if None in gain else gain[0] - gain[1], "+"), f"{row['better']} of {row['classes']}"]
        theirs = [_pair(AVERAGES[kind].get(shots))]
        theirs += [_pair(PLAIN_MEANS[kind].get(shots))] if kind in PLAIN_MEANS else []
        lines.append(table_row(shots, least if least == most else f"{least} to {most}", *cells, *theirs))
    return lines


def _classes(found: Found) -> str:
    """A table for each number of shots: medians of SDR of each class."""
    parts = []
    for shots in found.shots:
        tuned = "tuned" in found.methods
        lines = table_head("class", "clips", *found.methods, *(["gain", "kept", "seconds"] if tuned else []))
        for name, of in found.outcomes.items():
            row, outcomes = of_class(found, name, shots), of[shots]
            cells = [_cell(row[method]) for method in found.methods]
            if tuned:
                one = outcomes["tuned"]
                cells += [_cell(gain_of(row), "+"), "tuned" if one.kept else "enrolled", f"{one.seconds:.0f}"]
            lines.append(table_row(name.replace("|", r"\|"), next(iter(outcomes.values())).clips, *cells))
        parts.append(f"## Classes, shots: {shots}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _cell(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}z.2f}"


def _pair(pair: tuple[float, float] | None) -> str:
    return "-" if pair is None else f"{pair[0]:.2f} -> {pair[1]:.2f}"
