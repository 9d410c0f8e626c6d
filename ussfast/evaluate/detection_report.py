"""What `ussfast evaluate detect` says: JSON, and Markdown tables."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import ussfast
from ussfast.audio.atomic import atomic_write
from ussfast.detect.events import Rules
from ussfast.errors import InputError
from ussfast.evaluate.detection import Detection, LabelScore, Measure
from ussfast.evaluate.event_scores import F
from ussfast.evaluate.tables import table_head, table_row
from ussfast.separation import make_folders

FILES = ("evaluation.json", "evaluation.md")


def prepare(directory: Path) -> None:
    """Makes the folder for the files; OutputError where it cannot be."""
    make_folders([directory / FILES[0]])


def write(found: Detection, directory: Path) -> list[Path]:
    """Writes FILES into a folder that is there, each complete or not at all; returns their paths."""
    paths = [directory / name for name in FILES]
    with atomic_write(paths[0]) as temporary:
        temporary.write_text(json.dumps(as_dict(found), indent=1, allow_nan=False) + "\n")
    with atomic_write(paths[1]) as temporary:
        temporary.write_text(markdown(found))
    return paths


def as_dict(found: Detection) -> dict[str, Any]:
    """Everything, as JSON can hold it."""
    return {"ussfast": ussfast.__version__, "kind": "detection"} | dataclasses.asdict(found)


def from_dict(data: Any) -> Detection:
    """What `as_dict` made, read from its JSON; InputError for something else."""
    try:
        if data["kind"] != "detection":
            raise KeyError("kind")
        content = {f.name: data[f.name] for f in dataclasses.fields(Detection)}
        for name in ("event_micro", "event_macro", "segment_micro", "segment_macro"):
            content[name] = F(**data[name])
        labels = []
        for row in data["labels"]:
            both = {name: row[name] and F(**row[name]) for name in ("event_based", "segment_based")}
            labels.append(LabelScore(**(row | both)))
        rules, measure = Rules(**data["rules"]), Measure(**data["measure"])
        return Detection(**(content | {"labels": tuple(labels), "rules": rules, "measure": measure}))
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"not an evaluation of a detector (ussfast evaluate detect): {error!r}") from None


def summary(found: Detection) -> dict[str, Any]:
    """What it comes to, for --json."""
    out: dict[str, Any] = {
        kind: {"micro_f": micro.f, "macro_f": macro.f, "error_rate": micro.error_rate}
        for kind, micro, macro in (
            ("event_based", found.event_micro, found.event_macro),
            ("segment_based", found.segment_micro, found.segment_macro),
        )
    }
    tags = {"map": found.mean_average_precision, "classes": found.classes, "clips": found.clips}
    return out | {"tags": tags, "left_out": found.left_out}


def markdown(found: Detection) -> str:
    """The file: what was measured, and the tables."""
    return f"# {found.model}\n\n{about(found)}; ussfast {ussfast.__version__}.\n\n{table(found)}\n"


def about(found: Detection) -> str:
    """What was measured, in a line."""
    kind = "files" if found.seed is None else "scenes"
    made = "" if found.seed is None else f", seed {found.seed}"
    rules = found.rules
    return (
        f"{found.scenes} {kind}, {found.seconds:.0f} s at {found.sample_rate} Hz, from {found.data}{made}; threshold "
        f"{rules.threshold:g}, low {rules.lower:g}, minimum {rules.minimum:g} s, gap {rules.gap:g} s"
    )


def table(found: Detection) -> str:
    """Markdown tables: overall, then each label; then what was left out."""
    measure = found.measure
    lines = table_head("scores (%)", "F", "precision", "recall", "mean F of the labels", "error rate")
    for name, micro, macro in (
        (f"events, collar {measure.collar:g} s", found.event_micro, found.event_macro),
        (f"segments of {measure.segment:g} s", found.segment_micro, found.segment_macro),
    ):
        cells = [_percent(value) for value in (micro.f, micro.precision, micro.recall, macro.f)]
        lines.append(table_row(name, *cells, f"{micro.error_rate:.2f}"))
    parts = ["\n".join(lines)]
    if found.mean_average_precision is not None:
        parts.append(
            f"Tags of {found.clips} clips: mean average precision {found.mean_average_precision:.3f} over "
            f"{found.classes} labels."
        )
    lines = table_head("label", "events", "F of events (%)", "F of segments (%)", "clips", "average precision")
    for own in found.labels:
        scores = (_of(own.event_based), _of(own.segment_based))
        lines.append(
            table_row(own.label.replace("|", r"\|"), own.events, *scores, own.clips, _number(own.average_precision))
        )
    parts.append("\n".join(lines))
    if found.left_out:
        parts.append(f"Left out, since the detector does not know them: {named(found.left_out)}.")
    return "\n\n".join(parts)


def named(left_out: dict[str, int], most: int = 40) -> str:
    """Labels and their numbers in a line."""
    few = [f"{label} ({count})" for label, count in left_out.items()][:most]
    more = f" and {len(left_out) - most} more labels" if len(left_out) > most else ""
    return ", ".join(few) + more


def _of(scores: F | None) -> str:
    return "-" if scores is None else _percent(scores.f)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
