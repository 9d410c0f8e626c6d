"""Lists of files: a path or address in a line, or a line of JSON with it."""

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from ussfast.batch.places import Place, is_address, reason
from ussfast.errors import InputError
from ussfast.plain import parse_json

MOST_LINE = 1 << 20  # characters


def rows_of(text: str) -> Iterator[tuple[str, PurePosixPath | InputError]]:
    """(source, its place in the tree of outputs) of each line, or what is wrong with it.

    A line is a path or an address, or an object of JSON with "path" and, if wanted, "folder": where in the output its
    stems go. Empty lines and those that begin with # are none. Relative paths are relative to the manifest. Without
    "folder" the tree is that of the paths: of relative ones as they stand there, of others from their root on.

    Args:
        text: of a file or address, or a pattern for several; compressed where its suffix says so (.gz, .zst).
    Raises:
        InputError: no such file, or it cannot be read.
    """
    place = Place(text)
    try:
        paths = [place.path] if place.fs.exists(place.path) else sorted(place.fs.glob(place.path))
    except Exception as error:
        raise InputError(f"{text}: could not be read: {reason(error)}") from error
    if not paths:
        raise InputError(f"{text}: no such manifest")
    for path in paths:
        yield from _rows(Place(place.within(path)))


def _rows(place: Place) -> Iterator[tuple[str, PurePosixPath | InputError]]:
    number = 0
    try:
        with place.fs.open(place.path, "rt", compression="infer", encoding="utf-8", errors="surrogateescape") as file:
            while line := file.readline(MOST_LINE):
                number += 1
                line = line.rstrip("\r\n")  # not more: names may end with a space
                if line.strip() and not line.startswith("#"):
                    yield _row(place, line, f"{place.text}:{number}")
    except (OSError, EOFError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{place.text}:{number + 1}: could not be read: {reason(error)}") from error


def _row(place: Place, line: str, where: str) -> tuple[str, PurePosixPath | InputError]:
    path, folder = line, None
    if line.startswith("{"):
        try:
            row = parse_json(line)
            path, folder = row["path"], row.get("folder")
            if not isinstance(path, str) or not isinstance(folder, str | None) or not path:
                raise TypeError
        except (ValueError, KeyError, TypeError):
            return where, InputError(f'{where}: a path is needed, or {{"path": ..., "folder": ...}}, not {line[:60]!r}')
    tree = PurePosixPath(path.partition("://")[2] if is_address(path) else path.lstrip("/"))
    at = tree if folder is None else PurePosixPath(folder) / tree.name
    if at.is_absolute() or ".." in at.parts or not at.name:
        if folder is not None or not at.name:
            return where, InputError(f"{where}: its stems would not stay inside the output folder: {str(at)!r}")
        at = PurePosixPath(*(part for part in at.parts if part != ".."))
    if is_address(path):
        return path, at
    if not place.local and not os.path.isabs(path):
        return place.within(f"{place.fs._parent(place.path)}/{path}"), at
    return os.path.normpath(os.path.join(os.path.dirname(place.path), path)) if place.local else path, at
