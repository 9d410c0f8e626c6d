"""Files that are elsewhere: fetched, separated in a folder of this machine, and the stems put where they belong.

A record beside the stems tells a later run what they were made of, without fetching anything.
"""

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.audio.naming import stem_paths
from ussfast.audio.temporary import sweep, temporary_name
from ussfast.batch.listing import Item
from ussfast.batch.places import Place
from ussfast.batch.task import DONE, SKIPPED, Progress, Row, Task, labels_of
from ussfast.engine.records import made_of, record_name
from ussfast.errors import AudioError, OutputError
from ussfast.plain import parse_json

if TYPE_CHECKING:
    from ussfast.separator import Separator

FORMAT, VERSION = "ussfast-stems-elsewhere", 1


def separate_elsewhere(
    separator: "Separator", task: Task, item: Item, source: Place, output: Place, progress: Progress | None
) -> Row:
    """A `separate_item` whose input or output is not a local file.

    Raises:
        AudioError, OutputError, InputError: as `Separator.separate_file`, and what file systems have to say.
    """
    labels = labels_of(separator, task)
    suffix = Path(source.path).suffix[1:]
    names = [str(path) for path in stem_paths(Path(), task.template, labels, item.name, task.format, suffix)]
    stems = [Place(output.child(item.folder, name)) for name in names]
    outputs = {label: stem.text for label, stem in zip(labels, stems, strict=True)}
    plan = separator._plan(task.prompts)
    made = made_of(separator.engine, plan, ()) | {"written": asdict(task.format), "stems": [list(labels), names]}
    record = _Record(Place(output.child(item.folder, os.path.dirname(names[0]), record_name(names))), made, stems)
    facts = source.facts()
    if not task.redo and (known := record.read()) and known["input"] == facts:
        return Row(item.source, SKIPPED, outputs, known["seconds"], fingerprint=known["sha256"])
    with _Room() as room:
        # A name of its own there, but the same one to complain about.
        local = source.path if source.local else str(room / f"input{Path(source.path).suffix}")
        if not source.local:
            source.fetch(local)
        content = _sha256(local, source)
        if not task.redo and known and known["sha256"] == content:
            record.write(known | {"input": facts})
            return Row(item.source, SKIPPED, outputs, known["seconds"], fingerprint=content)
        try:
            written = separator.separate_file(
                Path(local), room / "stems", name=item.name, progress=progress, **task.options
            )
        except AudioError as error:
            raise AudioError(str(error).replace(local, source.text)) from error
        record.forget()
        for path, stem in zip(written, stems, strict=True):
            stem.put(str(path))
        sizes = [path.stat().st_size for path in written]
        record.write({"input": facts, "sha256": content, "seconds": written.seconds, "sizes": sizes})
        warnings = tuple(text.replace(str(room / "stems"), output.text) for text in written.warnings)
    return Row(item.source, DONE, outputs, written.seconds, fingerprint=content, warnings=warnings)


class _Record:
    """What stems elsewhere were made of.

    made: all but the input, see `made_of`.
    """

    def __init__(self, place: Place, made: dict[str, Any], stems: list[Place]):
        self._place, self._stems = place, stems
        # As JSON reads it.
        self._made = json.loads(json.dumps({"format": FORMAT, "version": VERSION, **made}))

    def read(self) -> dict[str, Any] | None:
        """input, sha256, seconds and sizes of complete stems that were made of the same; None where there are none."""
        try:
            found = parse_json(self._place.read() or b"")
            own = {name: found.pop(name) for name in ("input", "sha256", "seconds", "sizes")}
            if found != self._made or [stem.size() for stem in self._stems] != own["sizes"]:
                return None
            return own
        except (ValueError, KeyError, AttributeError, TypeError):
            return None

    def write(self, own: dict[str, Any]) -> None:
        """For when all stems are there. Raises OutputError."""
        with _Room() as room:
            path = room / "record.json"
            path.write_text(json.dumps(self._made | own, indent=1) + "\n")
            self._place.put(str(path))

    def forget(self) -> None:
        """Before stems are replaced: a run that ends in between must not have left the record of others."""
        if self._place.size() is not None:
            try:
                self._place.fs.rm_file(self._place.path)
            except Exception as error:
                raise OutputError(f"{self._place.text}: could not be removed: {error}") from error


class _Room:
    """A folder of this machine for a while; those of killed processes go when the next one is made."""

    def __enter__(self) -> Path:
        place = Path(tempfile.gettempdir(), "room")
        sweep(place.parent)
        self._folder = temporary_name(place)
        try:
            self._folder.mkdir(0o700)
        except OSError as error:
            raise OutputError(f"{self._folder}: could not be made: {error.strerror}") from error
        return self._folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)


def _sha256(path: str, source: Place) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise AudioError(f"{source.text}: could not be read: {error.strerror}") from error
