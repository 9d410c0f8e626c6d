"""Docstrings as Markdown, for mkdocstrings: each argument, error and setting becomes an item of a list.

Docstrings here have sections without empty lines between them, several names to one text, and settings in the prose of
a class, none of which the usual parsers take.
"""

import re
from textwrap import dedent
from typing import Any

import griffe

SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Settings|Source|Warns|Yields):(?: (.*))?$")
TITLES = {"Args": "Arguments"}
NAMES = r"[A-Za-z_]\w*(?:\.\w+)*(?:, [A-Za-z_]\w*(?:\.\w+)*)*"
ENTRY = re.compile(rf"({NAMES}): (.*)", re.DOTALL)
# Where the next setting of a paragraph begins: after a sentence, or a part of one.
NEXT = re.compile(rf"(?:(?<=\A)|(?<=[.;] )|(?<=[.;]\n)|(?<=\n))(?={NAMES}: )")
PAGE = re.compile(r"(?<![\w/`])docs/([\w-]+)\.md")


def markdown(text: str, known: set[str]) -> str:
    """A docstring for a page; `known` are names that may have a text of their own in its prose."""
    parts, prose, lines = [], [], text.splitlines()
    while lines:
        line = lines.pop(0)
        found = SECTION.fullmatch(line)
        if not found:
            prose.append(line)
            continue
        body = []
        while lines and (not lines[0].strip() or lines[0].startswith(" ")):
            body.append(lines.pop(0))
        parts.append(_section(found[1], found[2] or "", dedent("\n".join(body)).strip("\n")))
    return "\n\n".join(part for part in (_prose("\n".join(prose), known), *parts) if part)


def _section(kind: str, first: str, body: str) -> str:
    title = f"**{TITLES.get(kind, kind)}**"
    if kind in ("Returns", "Yields", "Source") or (first and not body):
        return f"{title}: {_inline(' '.join(f'{first} {body}'.split()))}"
    entries = [first] if first else []
    for line in body.splitlines():
        if line.startswith(" ") and entries:
            entries[-1] += " " + line.strip()
        elif line.strip():
            entries.append(line.strip())
    return "\n".join([title, "", *(_item(entry) for entry in entries)])


def _prose(text: str, known: set[str]) -> str:
    """Paragraphs; those that begin with a setting become lists of settings."""
    made = []
    for paragraph in filter(None, re.split(r"\n\s*\n", text.strip())):
        pieces: list[str] = []
        for piece in filter(None, NEXT.split(paragraph)):
            found = ENTRY.match(piece)
            if pieces and not (found and set(found[1].split(", ")) <= known):
                pieces[-1] += piece
            else:
                pieces.append(piece)
        if (found := ENTRY.match(pieces[0])) and set(found[1].split(", ")) <= known:
            made.append("\n".join(_item(" ".join(piece.split()).rstrip(";")) for piece in pieces))
        elif len(pieces) > 1:  # a sentence, then settings
            made.append(_inline(dedent(pieces[0]).strip()))
            made.append("\n".join(_item(" ".join(piece.split()).rstrip(";")) for piece in pieces[1:]))
        else:
            made.append(paragraph if paragraph.startswith("    ") else _inline(paragraph))
    return "\n\n".join(made)


def _item(entry: str) -> str:
    found = ENTRY.fullmatch(entry)
    if not found:
        return f"- {_inline(entry)}"
    return f"- {', '.join(f'`{name}`' for name in found[1].split(', '))}: {_inline(found[2])}"


def _inline(text: str) -> str:
    """What is no Markdown in a docstring, as Markdown; code stays as it is."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [part.replace("<", "&lt;").replace("*", "\\*") for part in parts[::2]]
    return PAGE.sub(r"[\1](../\1.md)", "".join(parts))


class Docstrings(griffe.Extension):
    """Rewrites docstrings when they are loaded."""

    def on_object(self, *, obj: griffe.Object, **others: Any) -> None:
        if obj.docstring is None:
            return
        known = set(obj.members)
        if isinstance(obj, griffe.Class) and "__init__" in obj.members:
            known |= {parameter.name for parameter in obj.members["__init__"].parameters}  # type: ignore[union-attr]
        obj.docstring.value = markdown(obj.docstring.value, known)
        # Nobody calls the constructor of what another object makes.
        if isinstance(obj, griffe.Class) and re.search("made by\\s+`", obj.docstring.value):
            obj.members.pop("__init__", None)
