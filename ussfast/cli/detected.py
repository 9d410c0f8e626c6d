"""What `ussfast detect` found, as text."""

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ussfast.audio import atomic_write, find_inputs
from ussfast.audio.naming import identity
from ussfast.detect.events import Event
from ussfast.errors import UssfastError


@dataclass
class Found:
    """A file, and what is in it: events or, where they were asked for, labels and scores of the whole."""

    path: Path
    events: list[Event] = field(default_factory=list)
    tags: list[tuple[str, float]] = field(default_factory=list)
    error: UssfastError | None = None


def find(inputs: Sequence[Path]) -> list[Found]:
    """The audio files meant by files and folders, each once; what cannot be found is an error of its own."""
    found: dict[object, Found] = {}

    def wrong(path: Path, error: UssfastError) -> None:
        found[path, str(error)] = Found(path, error=error)

    for given in inputs:
        try:
            for path, _ in find_inputs(given, lambda error, given=given: wrong(given, error)):  # type: ignore[misc]
                found.setdefault(identity(path), Found(path))
        except UssfastError as error:
            wrong(given, error)
    return list(found.values())


def as_text(files: Sequence[Found], form: str, top: int | None) -> str:
    """All that was found; form: "--json", "--csv", "--audacity", or "" for lines."""
    if form == "--json":
        return json.dumps([_as_dict(file, top) for file in files], indent=1) + "\n"
    done = [file for file in files if file.error is None]
    if form == "--csv":
        text = io.StringIO()
        # Columns as in lists of events for DCASE.
        columns = ("event_label", "score") if top else ("onset", "offset", "event_label", "score")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(("filename", *columns))
        for file in done:
            for label, score in file.tags:
                table.writerow((file.path, label, f"{score:.4f}"))
            for e in file.events:
                table.writerow((file.path, f"{e.onset:.3f}", f"{e.offset:.3f}", e.label, f"{e.score:.4f}"))
        return text.getvalue()
    if form == "--audacity":
        return "".join(f"{e.onset:.6f}\t{e.offset:.6f}\t{e.label}\n" for file in done for e in file.events)
    return "".join(lines(file, len(files) > 1) for file in done)


def lines(file: Found, named: bool) -> str:
    """What is in a file, for people to read; named: which file it is stands in front of every line."""
    name = f"{file.path}: " if named else ""
    found = [f"{name}{score:.2f}  {label}" for label, score in file.tags]
    found += [f"{name}{e.onset:8.2f} {e.offset:8.2f}  {e.score:.2f}  {e.label}" for e in file.events]
    return "".join(f"{line}\n" for line in found)


def _as_dict(file: Found, top: int | None) -> dict[str, Any]:
    error = str(file.error) if file.error else None
    if top:
        return {"input": str(file.path), "tags": [{"label": n, "score": s} for n, s in file.tags], "error": error}
    return {"input": str(file.path), "events": [asdict(event) for event in file.events], "error": error}


def write(text: str, path: Path | None) -> None:
    """Into a file, which appears complete or not at all, or onto standard output."""
    if path is None:
        print(text, end="")
        return
    with atomic_write(path) as temporary:
        # Names of files may be no text.
        temporary.write_bytes(text.encode("utf-8", "surrogateescape"))
