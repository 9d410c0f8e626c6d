"""Pickles looked at before they are read: keys of tables are hashed, which takes as long as tuples of tuples want."""

import pickletools
import zipfile
from pathlib import Path
from typing import IO, Any

MOST = 100_000  # values in a tuple and those in it, as often as they are referred to
PARTS = 5  # pickles of a file that is no archive


def bounded(path: Path) -> bool:
    """Whether no tuple in the pickles of a file holds more than MOST values, and nothing is compressed or there twice.

    Raises what pickletools does if they are no pickles.
    """
    if not zipfile.is_zipfile(path):
        with path.open("rb") as file:
            return all(_bounded(file) for _ in range(PARTS))
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) != len(names) or any(e.compress_type != zipfile.ZIP_STORED for e in archive.infolist()):
            return False
        for name in names:
            if name.endswith("data.pkl"):
                with archive.open(name) as file:
                    if not _bounded(file):
                        return False
    return True


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
