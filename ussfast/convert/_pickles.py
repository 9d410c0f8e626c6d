"""Pickles looked at before they are read: keys of tables are hashed, which takes as long as tuples of tuples want."""

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

MOST = 100_000  # values in a tuple and those in it, as often as they are referred to
PARTS = 5  # pickles of a file that is no archive


def bounded(path: Path) -> bool:
    """Whether no tuple in the pickles of a file holds more than MOST values, and nothing is compressed or there twice.

    Raises what pickletools does if they are no pickles.
    """
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names) or any(e.compress_type != zipfile.ZIP_STORED for e in archive.infolist()):
                return False
    return all(map(_bounded, _pickles(path)))


def names_in(path: Path) -> set[str]:
    """What the pickles of a file ask for by name, "module.name", whatever it is; raises as `bounded` does."""
    found = set()
    for file in _pickles(path):
        for opcode, argument, _ in pickletools.genops(file):
            if opcode.name == "GLOBAL":
                found.add(str(argument).replace(" ", ".", 1))
    return found


def _pickles(path: Path) -> Iterator[IO[bytes]]:
    """The pickles of a file, one after the other; each has to be read to its end."""
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            for _ in range(PARTS):
                yield file
        return
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    yield file


def _bounded(file: IO[bytes]) -> bool:
    """Follows the sizes of values through one pickle; what is no tuple, nor made of one, counts as one."""
    stack: list[int | None] = []  # None is a mark
    memo: dict[Any, int] = {}
    for opcode, argument, _ in pickletools.genops(file):
        name = opcode.name
        if name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            memo[len(memo) if name == "MEMOIZE" else argument] = stack[-1] or 1
            continue
        if name in ("GET", "BINGET", "LONG_BINGET"):
            stack.append(memo[argument])
            continue
        if name == "DUP":
            stack.append(stack[-1])
            continue
        taken: list[int | None] = []
        if pickletools.markobject in opcode.stack_before:
            while (top := stack.pop()) is not None:
                taken.append(top)
            count = opcode.stack_before.index(pickletools.markobject)
        else:
            count = len(opcode.stack_before)
        taken += [stack.pop() for _ in range(count)]
        size = 1
        if name.startswith("TUPLE") or name in ("REDUCE", "NEWOBJ", "BUILD", "FROZENSET"):
            size += sum(value or 1 for value in taken)
        if size > MOST:
            return False
        for kind in opcode.stack_after:
            stack.append(None if kind is pickletools.markobject else size)
    return True
