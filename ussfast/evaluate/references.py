"""Reference events as DCASE lists them: a table of tab-separated values. Nothing here needs torch."""

import csv
import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ussfast.detect.events import Event
from ussfast.errors import InputError

COLUMNS = ("filename", "onset", "offset", "event_label")
MOST_BYTES = 64 << 20
MOST_SECONDS = 1e6


def read_references(path: Path, folder: Path | None = None) -> dict[Path, list[Event]]:
    """The events of each file, in the order of the table.

    Args:
        path: a table with the columns filename, onset, offset (in seconds) and event_label, in any order and beside
            others, named in its first line; or with these four and no such line. A row with a filename alone is a file
            without events.
        folder: where the files are; by default that of the table.
    Raises:
        InputError: no such table, or one that is something else; the line is named.
    """
    folder = path.parent if folder is None else folder
    found: dict[Path, list[Event]] = {}
    for number, row in _rows(path):
        name, onset, offset, label = (row.get(column, "").strip() for column in COLUMNS)
        if not name or "\0" in name:
            raise InputError(f"{path}, line {number}: the filename is missing")
        events = found.setdefault(folder / name, [])
        if onset or offset or label:
            events.append(_event(f"{path}, line {number}", onset, offset, label))
    if not any(found.values()):
        raise InputError(f"{path}: has no events: a table with the columns {', '.join(COLUMNS)} is expected")
    return found


def _event(where: str, onset: str, offset: str, label: str) -> Event:
    begin, end = (_number(text) for text in (onset, offset))
    if begin is None or end is None or not 0 <= begin < end <= MOST_SECONDS:
        raise InputError(f"{where}: onset and offset must be seconds, the onset first, got {onset!r} and {offset!r}")
    if not label:
        raise InputError(f"{where}: the event_label is missing")
    return Event(label, begin, end, 1.0)


def _number(text: str) -> float | None:
    with suppress(ValueError):
        return value if math.isfinite(value := float(text)) else None
    return None


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    """(line, value by column) of the rows that are not empty."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such table of events")
    try:
        if os.path.getsize(path) > MOST_BYTES:
            raise InputError(f"{path}: too large for a table of events: more than {MOST_BYTES >> 20} MiB")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable as a table of events: {error}") from None
    # Quotes are part of names, as in the tables that are around.
    table = csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
    try:
        rows = [(number, cells) for number, cells in enumerate(table, 1) if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise InputError(f"{path}: not readable as a table of events: {error}") from None
    columns: tuple[str, ...] = COLUMNS
    if rows and "filename" in (first := tuple(cell.strip() for cell in rows[0][1])):
        if missing := [column for column in COLUMNS if column not in first]:
            raise InputError(f"{path}: the column {missing[0]!r} is missing; there must be {', '.join(COLUMNS)}")
        columns, rows = first, rows[1:]
    for number, cells in rows:
        if len(cells) > len(columns):
            raise InputError(f"{path}, line {number}: has {len(cells)} columns instead of {len(columns)}")
        yield number, dict(zip(columns, cells, strict=False))
