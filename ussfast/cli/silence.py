"""`-q` for what C libraries write to standard error."""

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


@contextmanager
def silent_libraries(on: bool = True) -> Iterator[None]:
    """Inside, only Python writes to standard error: what C libraries have to say goes nowhere.

    libmpg123 tells there of every damaged frame, and libsndfile lets nobody ask it not to. The descriptor belongs to
    the whole process, so this is for the command line alone, around all of its threads. Last words of a process that
    crashes are lost, too.
    """
    if not on:
        yield
        return
    with suppress(OSError, ValueError):
        sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # standard error is closed
        yield
        return
    python, ours = sys.stderr, None
    with suppress(OSError, ValueError, AttributeError):  # it may be something else in a test or another program
        if python.fileno() == 2:
            ours = io.TextIOWrapper(
                open(kept, "wb", 0, closefd=False), python.encoding, python.errors, write_through=True
            )
            sys.stderr = ours
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    try:
        yield
    finally:
        if ours is not None:
            sys.stderr = python
        os.dup2(kept, 2)
        os.close(kept)
