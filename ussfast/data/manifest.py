"""Manifests: JSON files that list training audio, one row per file. Nothing here needs torch.

docs/data.md describes the fields. Rows are plain dictionaries, so that fields nobody here knows survive.
"""

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.plain import Name, Range, check_known, read_json

Row = dict[str, Any]

PROMPTS = ("speech", "sfx", "sfxbg", "drums", "bass", "vocals", "other", "musicbg")
STEMS = ("drums", "bass", "vocals", "other")
SPLITS = ("train", "dev", "test")
LICENSE_CLASSES = ("permissive", "attribution", "free-use", "noncommercial", "copyleft", "unknown")


class Where:
    """A path as manifests have it."""

    def fault(self, value: str) -> str | None:
        return None if 0 < len(value) <= 4096 and "\0" not in value else "must be a path"


class Label:
    """What things are told apart by."""

    def fault(self, value: Any) -> str | None:
        return None if isinstance(value, str | int) else "must be a name or a number"


@dataclass(frozen=True)
class Fields:
    """What a row's fields may hold, where they are there; docs/data.md says what they mean."""

    path: Annotated[str, Where()]
    prompt: Name
    split: Name
    license_class: Name
    sample_rate: Annotated[float, Range(1, 1e7)]
    seconds: Annotated[float, Range(0, 1e9)] = 0.0
    license: str | None = None
    source: str | None = None
    song: Annotated[Any, Label()] = None
    speaker: Annotated[Any, Label()] = None
    label: Annotated[Any, Label()] = None
    aligned_with: tuple[Annotated[str, Where()], ...] = ()


@dataclass(frozen=True)
class _File:
    items: list


def read_rows(path: str | os.PathLike[str]) -> list[Row]:
    """Rows of a manifest as they are in the file; paths stay relative to its folder.

    Raises:
        InputError: no such file, or not a table with `items` whose fields are as `Fields` has them.
    """
    path = Path(path)
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such manifest")
    try:
        data = read_json(path, None)
        check_known(_File, data, "it")
        for number, row in enumerate(data["items"]):
            check_known(Fields, row, f"items[{number}]")
    except InputError as error:
        raise InputError(f"{path} is not a manifest (a table with 'items'): {error}") from None
    rows: list[Row] = data["items"]
    return rows


def manifest_text(rows: Iterable[Row]) -> str:
    """The manifest as text, one row per line: differences stay readable, and its size is the sum of its rows'."""
    return '{"items": [\n' + ",\n".join(row_text(row) for row in rows) + "\n]}\n"


def row_text(row: Row) -> str:
    return json.dumps(row, ensure_ascii=False, separators=(", ", ": "))


def write_rows(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Writes a manifest that appears only once it is complete. Raises OutputError if it cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(manifest_text(rows), encoding="utf-8")


def placed(audio: Path, folder: Path) -> str:
    """`audio` as a manifest in `folder` names it: relative where it lies below that folder, else absolute."""
    whole, root = Path(os.path.abspath(audio)), Path(os.path.abspath(folder))
    return whole.relative_to(root).as_posix() if whole.is_relative_to(root) else str(whole)


def merge(manifests: list[Path], output: Path) -> list[Row]:
    """Rows of several manifests, with paths as a manifest at `output` needs them.

    A file that two of them list for one prompt is taken once. A song that two of them have is two songs, whose stems
    do not belong together: the later one is given another name.
    """
    rows: list[Row] = []
    taken: set[tuple[str, str]] = set()
    songs: set[str] = set()
    for manifest in manifests:
        names: dict[str, str] = {}
        for row in read_rows(manifest):
            row = moved(row, manifest.parent, output.parent)
            if (row["path"], row["prompt"]) in taken:
                continue
            taken.add((row["path"], row["prompt"]))
            if song := row.get("song"):
                row["song"] = names.setdefault(song, _free(song, songs))
            rows.append(row)
        songs |= set(names.values())
    return rows


def moved(row: Row, old: Path, new: Path) -> Row:
    """A row of a manifest in the folder `old` as one in `new` has it."""
    row = row | {"path": placed(old / row["path"], new)}
    if "aligned_with" in row:
        row["aligned_with"] = [placed(old / other, new) for other in row["aligned_with"]]
    return row


def _free(song: str, songs: set[str]) -> str:
    name, number = song, 1
    while name in songs:
        number += 1
        name = f"{song} #{number}"
    return name


def by_prompt(rows: Iterable[Row]) -> dict[str, tuple[int, float]]:
    """(items, minutes) of each prompt that occurs, in the order of PROMPTS."""
    found: dict[str, tuple[int, float]] = {}
    for row in rows:
        items, minutes = found.get(row["prompt"], (0, 0.0))
        found[row["prompt"]] = (items + 1, minutes + float(row.get("seconds", 0.0)) / 60)
    known = [prompt for prompt in PROMPTS if prompt in found]
    return {prompt: found[prompt] for prompt in [*known, *sorted(found.keys() - set(known))]}
