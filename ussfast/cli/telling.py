"""What is printed: lines on standard error, and names of files whatever bytes they are made of."""

import codecs
import io
import os
import sys
from contextlib import suppress

from ussfast.errors import UssfastError


def printable() -> None:
    """From now on names of files are printed as the bytes that they are, also where those are no text."""
    codecs.register_error("ussfast-names", _bytes_of_name)
    for stream, own in ((sys.stdout, sys.__stdout__), (sys.stderr, sys.__stderr__)):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(ValueError):  # closed
                # What stands in for them may want text.
                stream.reconfigure(errors="ussfast-names" if stream is own else "backslashreplace")


def _bytes_of_name(error: UnicodeError) -> tuple[str | bytes, int]:
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end]
    try:
        return os.fsencode(text), error.end
    except UnicodeError:
        return text.encode("ascii", "backslashreplace"), error.end


def note(line: str) -> None:
    """One line on standard error."""
    print(f"ussfast: {' '.join(line.split())}", file=sys.stderr, flush=True)


def warn(text: str) -> None:
    """One line on standard error about what is written all the same."""
    note(f"warning: {text}")


def complain(error: UssfastError) -> None:
    """Its text as one line on standard error."""
    note(str(error))
