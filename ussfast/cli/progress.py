"""How far the work on several files is."""

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from ussfast.audio import probe
from ussfast.cli.telling import note
from ussfast.errors import UssfastError

EVERY_SECONDS = 60  # between lines about progress, where there is no terminal


class Input(Protocol):
    """A file, or why there is none."""

    @property
    def path(self) -> Path: ...

    @property
    def error(self) -> UssfastError | None: ...


class Bar:
    """Seconds of audio over all files; on a terminal only.

    what: is done with them.
    """

    def __init__(self, files: Sequence[Input], what: str, quiet: bool):
        self._lock, self._done = threading.Lock(), dict[Path, float]()
        hide = quiet or not sys.stderr.isatty()
        total = None if hide else sum(filter(None, (_seconds(file.path) for file in files if file.error is None)))
        shown = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio, {remaining} left"
        unknown = "{desc}: {n:.0f} s of audio in {elapsed}"
        self._bar = tqdm(total=total or None, disable=hide, desc=what, bar_format=shown if total else unknown)

    def update(self, path: Path, seconds: float) -> None:
        """So much of this file is done."""
        with self._lock:
            self._bar.update(seconds - self._done.get(path, 0.0))
            self._done[path] = seconds

    def print(self, text: str) -> None:
        """Text on standard output, which may be the same terminal."""
        with self._bar.external_write_mode(sys.stdout):
            print(text, end="", flush=True)

    def close(self) -> None:
        self._bar.close()


class Pace:
    """Files, hours of audio and hours per hour, of a collection: a bar on a terminal, else a line now and then."""

    def __init__(self, quiet: bool):
        self._quiet, self._terminal, self._began = quiet, sys.stderr.isatty(), time.monotonic()
        self._due = self._began + EVERY_SECONDS
        self._bar = tqdm(disable=quiet or not self._terminal, bar_format="{desc}")

    def update(self, files: int, seconds: float, count: int) -> None:
        """So many files of `count` are done, and seconds of audio."""
        now = time.monotonic()
        rate = seconds / max(now - self._began, 1e-9)
        text = f"{files} of {count} files, {seconds / 3600:.2f} h of audio, {rate:.1f} hours per hour"
        self._bar.set_description_str(text)
        if not (self._quiet or self._terminal) and now >= self._due:
            self._due = now + EVERY_SECONDS
            note(text)

    def close(self) -> None:
        self._bar.close()


def _seconds(path: Path) -> float | None:
    with suppress(UssfastError):
        return probe(path).seconds
    return None  # the error comes when it is this file's turn
