"""FSD50K: Freesound clips with labels and a licence each; effects and backgrounds as in the TUSS recipe.

Source of the rule: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ussfast.data.readers._base import Clip, Problem, Reader, read_table
from ussfast.errors import InputError

BACKGROUND_FROM_S = 8.0
# Labels come with all that stand above them, so these few cover every voice and instrument.
EXCLUDED = {"Music", "Musical_instrument", "Human_voice", "Speech", "Singing"}


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    tables = {}
    for part in ("dev", "eval"):
        table = folder / "FSD50K.ground_truth" / f"{part}.csv"
        if table.is_file() and (folder / f"FSD50K.{part}_audio").is_dir():
            tables[part] = read_table(table, ["fname", "labels", *(["split"] if part == "dev" else [])])
    labels = [row["labels"].split(",") for rows in tables.values() for row in rows]
    above = labels_above(labels)
    for part, rows in tables.items():
        facts = _clip_facts(folder / "FSD50K.metadata" / f"{part}_clips_info_FSD50K.json")
        for row in rows:
            split = "test" if part == "eval" else "dev" if row["split"] == "val" else "train"
            name, given = row["fname"], row["labels"].split(",")
            own = own_labels(given, above)
            fact = facts.get(name, {})
            license, license_class = creative_commons(fact.get("license"))
            by = f" by {fact['uploader']}" if fact.get("uploader") else ""
            yield Clip(
                path=folder / f"FSD50K.{part}_audio" / f"{name}.wav",
                prompt=prompt_of(given, own),
                split=split,
                source=f"FSD50K: Freesound {name}{by}",
                license=license,
                license_class=license_class,
                label=",".join(own),
            )


def prompt_of(given: list[str], own: list[str]) -> Callable[[float], str | None]:
    voiced = bool(EXCLUDED & set(given)) or any(re.search("speech|speaking|singing", x, re.IGNORECASE) for x in given)

    def prompt(seconds: float) -> str | None:
        if voiced:
            return None
        if seconds >= BACKGROUND_FROM_S:
            return "sfxbg"
        return "sfx" if len(own) == 1 else None

    return prompt


def labels_above(clips: list[list[str]]) -> dict[str, set[str]]:
    """For each label, the labels that all of its clips have too: those above it in the ontology, which the ground
    truth repeats with every clip but does not describe."""
    above: dict[str, set[str]] = {}
    for labels in clips:
        for label in labels:
            above[label] = above.get(label, set(labels)) & set(labels)
    return above


def own_labels(labels: list[str], above: dict[str, set[str]]) -> list[str]:
    """The labels of a clip that no other one of its labels brings along."""

    def brought(label: str) -> bool:
        # Of two that always come together, the one that stands first counts.
        return any(
            label in above[other] and (other not in above[label] or labels.index(other) < labels.index(label))
            for other in labels
            if other != label
        )

    return [label for label in labels if not brought(label)]


def creative_commons(url: str | None) -> tuple[str, str]:
    """(licence, class) of a Creative Commons address such as http://creativecommons.org/licenses/by/3.0/."""
    if not url:
        return "CC BY 4.0 for FSD50K as a whole; licence of the clip not known (no FSD50K.metadata)", "unknown"
    found = re.search(r"creativecommons\.org/(?:licenses|publicdomain)/([a-z+-]+)/([\d.]+)", url)
    kind, version = found.groups() if found else (url, "")
    if kind == "zero":
        return f"CC0 {version}", "permissive"
    if kind == "by":
        return f"CC BY {version}", "attribution"
    if kind.startswith("by-nc"):
        return f"CC {kind.upper()} {version}", "noncommercial"
    if kind == "by-sa":
        return f"CC BY-SA {version}", "copyleft"
    # Sampling+ forbids advertising and fits none of the classes.
    return (f"CC Sampling+ {version}" if kind == "sampling+" else url), "unknown"


def _clip_facts(path: Path) -> dict[str, dict[str, Any]]:
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        return {str(name): dict(fact) for name, fact in facts.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise InputError(f"{path}: not the table of clips that FSD50K has there: {error}") from None


READER = Reader(
    "fsd50k",
    "FSD50K",
    "FSD50K.ground_truth/dev.csv with FSD50K.dev_audio/, or eval.csv with FSD50K.eval_audio/ "
    "(and FSD50K.metadata/ for the licences)",
    find,
)
