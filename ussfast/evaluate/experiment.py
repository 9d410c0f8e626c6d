"""Folders of experiments that are done piece by piece: whose they are, and that they stay one experiment's."""

import json
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import InputError
from ussfast.plain import read_json
from ussfast.separation import make_folders

MOST_BYTES = 64 << 20


def belongs(path: Path, settings: dict[str, Any]) -> None:
    """Writes what results depend on, or holds what is written there against it.

    Args:
        path: of the file; its folder is made. settings: as JSON has it.
    Raises:
        InputError: the folder is that of another experiment. OutputError: it cannot be written.
    """
    settings = json.loads(json.dumps(settings))
    make_folders([path])
    if not path.exists():
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(settings, indent=1) + "\n")
        return
    there = read(path)
    known = there if isinstance(there, dict) else {}
    for name in dict.fromkeys([*settings, *known]):
        theirs, ours = known.get(name), settings.get(name)
        if theirs != ours:
            raise InputError(
                f"{path.parent}: has results of another experiment: {name} is {_short(theirs)} there and "
                f"{_short(ours)} here; choose another folder"
            )


def read(path: Path) -> Any:
    """JSON of a file, within bounds. Raises InputError that names it."""
    try:
        return read_json(path, MOST_BYTES)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
