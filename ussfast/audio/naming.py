"""Names of the files of stems: templates, names that any file system takes, and folders. Nothing here needs torch."""

import hashlib
import os
import re
import string
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ussfast.audio.formats import FORMATS, OutputFormat
from ussfast.audio.reading import AUDIO_SUFFIXES
from ussfast.errors import InputError, OutputError

FIELDS = ("label", "name", "index", "suffix")
_WRITTEN = tuple(f".{name}" for name in FORMATS)
_NAME_BYTES = 255  # of most file systems, where this one does not say


def stem_paths(
    directory: Path, template: str, labels: Sequence[str], name: str, output: OutputFormat | None = None,
    suffix: str = "",
) -> list[Path]:  # fmt: skip
    """Where each stem goes: a file of its own for each label.

    Args:
        directory: that all files are under.
        template: with the fields {label}, {name}, {index} ({index:02} too) and {suffix}.
        labels: of the stems.
        name: what {name} stands for.
        suffix: what {suffix} stands for.
    Raises:
        InputError: a template that cannot work, or a format that cannot have the settings.
    """
    parts, kind = _parsed(template), Path(template).suffix.lower()
    if kind in AUDIO_SUFFIXES and kind not in _WRITTEN:
        ways = f"{', '.join(_WRITTEN[:-1])} or {_WRITTEN[-1]}"
        raise InputError(f"template {template!r}: files are written as {ways}, not as {kind}")
    output, most, paths = output or OutputFormat(), _longest(directory), []
    for index, label in enumerate(_distinct(labels)):
        values = {"label": label, "name": _shown(name), "index": index + 1, "suffix": _shown(suffix)}
        path = Path("".join(text + (format(values[field], spec) if field else "") for text, field, spec in parts))
        if path.is_absolute() or ".." in path.parts or not path.name:
            raise InputError(f"template {template!r} must stay inside the output directory")
        if kind not in _WRITTEN:  # that of the template: an input's name may hold any
            path = path.with_name(path.name + ".wav")
        if output.format:
            path = path.with_suffix(f".{output.format}")
        output.name(path)
        paths.append(directory.joinpath(*(_cut(part, most) for part in path.parts)))
    if len(set(paths)) != len(paths):
        raise InputError(f"template {template!r} gives several stems the same file: put {{label}} into it")
    return paths


def fields(template: str) -> set[str]:
    """The fields that a template has. Raises as `stem_paths` does."""
    return {field for _, field, _ in _parsed(template) if field}


def _parsed(template: str) -> list[tuple[str, str, str]]:
    """(text, the field behind it or "", how it is formatted), one after the other."""
    parts = []
    try:
        for text, field, spec, conversion in string.Formatter().parse(template):
            wrong = field is not None and (field not in FIELDS or conversion is not None)
            if wrong or (spec and not (field == "index" and re.fullmatch(r"0?[0-9]d?", spec))):
                raise ValueError
            parts.append((text, field or "", spec or ""))
    except ValueError:
        known = ", ".join(f"{{{name}}}" for name in FIELDS[:-1])
        raise InputError(f"template {template!r} may use {known} and {{{FIELDS[-1]}}} only") from None
    if "\0" in template:
        raise InputError(f"template {template!r}: names of files have no NUL")
    return parts


def _distinct(labels: Sequence[str]) -> list[str]:
    """The labels as parts of file names, no two alike on a file system that makes A and a the same."""
    taken: set[str] = set()
    names = []
    for label in labels:
        safe = re.sub(r"^\.+", "_", re.sub(r"[^\w.+-]+", "_", label)) or "_"
        name, number = safe, 1
        while (key := unicodedata.normalize("NFKC", name).casefold()) in taken:
            number += 1
            name = f"{safe}-{number}"
        taken.add(key)
        names.append(name)
    return names


def _shown(name: str) -> str:
    """Part of a file name that is an input's: it leads nowhere else."""
    name = re.sub(r"[/\0]", "_", name)
    return name.replace(".", "_") if not name.strip(".") else name


def _cut(name: str, most: int) -> str:
    """The name within so many bytes; of one that is longer, the beginning, a hash and the suffix."""
    if len(os.fsencode(name)) <= most:
        return name
    stem, suffix = os.path.splitext(name)
    if len(os.fsencode(suffix)) > most // 4:
        stem, suffix = name, ""
    end = f"~{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}{suffix}"
    while len(os.fsencode(stem + end)) > most:
        stem = stem[:-1]
    return stem + end


def _longest(directory: Path) -> int:
    """Bytes that a name there can have."""
    for place in (directory, *directory.absolute().parents):
        try:
            return os.pathconf(place, "PC_NAME_MAX")
        except (OSError, ValueError, AttributeError):  # not there yet; no name that can be; Windows
            continue
    return _NAME_BYTES


def make_folders(paths: Sequence[Path]) -> None:
    """The folders of these files; OutputError where they cannot be."""
    for folder in dict.fromkeys(path.parent for path in paths):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (OSError, ValueError) as error:  # ValueError: a NUL in the name
            reason = getattr(error, "strerror", None) or error
            raise OutputError(f"{folder}: cannot be used for output: {reason}") from error


Identity = tuple[int, int]


def identity(path: Path) -> Identity | None:
    """What a file has in common with its other names and links; None where there is none."""
    try:
        facts = os.stat(path)
    except (OSError, ValueError):
        return None
    return facts.st_dev, facts.st_ino


def identities(paths: Iterable[Path]) -> dict[Identity, Path]:
    """The paths by identity, those that are there."""
    return {key: path for path in paths if (key := identity(path)) is not None}


def check_inputs_stay(outputs: Iterable[Path], inputs: Mapping[Identity, Path]) -> None:
    """InputError where an output would take the place of an input, also under another name or through links."""
    for output in outputs:
        if (found := inputs.get(identity(output) or (-1, -1))) is not None:
            also = "" if str(found) == str(output) else f" {found}"
            advice = "choose another directory or template"
            raise InputError(f"{output}: an output would overwrite the input{also}; {advice}")
