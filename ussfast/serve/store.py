"""The data folder of a server: its database, and a lock that keeps a second server out."""

import fcntl
import os
import sqlite3
import threading
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from ussfast.errors import InputError, OutputError

FILE, LOCK = "ussfast.sqlite", "lock"
Row = tuple[Any, ...]


class Store:
    """SQLite in the folder `data`, which is this process's alone until `close`.

    What `write` returned from is on disk. Writes wait for that and belong into a thread; reads wait for nobody.

    Raises:
        InputError: another server has the folder. OutputError: it cannot be written.
    """

    def __init__(self, data: Path):
        self._lock, self._writing = _locked(data), threading.Lock()
        try:
            self._writer, self._reader = self._connect(data / FILE), self._connect(data / FILE)
        except sqlite3.Error as error:
            self._lock.close()
            raise OutputError(f"{data / FILE}: no database that could be used: {error}") from error

    @staticmethod
    def _connect(path: Path) -> sqlite3.Connection:
        made = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=10)
        made.execute("PRAGMA journal_mode=WAL")
        made.execute("PRAGMA synchronous=FULL")
        return made

    def write(self, *statements: tuple[Any, ...]) -> None:
        """All of these, each (SQL, value, ...), or none; from any thread. OutputError where it cannot be written."""
        with self._writing:
            try:
                self._writer.execute("BEGIN IMMEDIATE")
                for text, *values in statements:
                    self._writer.execute(text, values)
                self._writer.execute("COMMIT")
            except BaseException as error:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                if isinstance(error, sqlite3.OperationalError):
                    raise OutputError(f"the database could not be written: {error}") from error
                raise

    def read(self, text: str, *values: Any) -> list[Row]:
        """Rows of a query; one thread at a time."""
        return self._reader.execute(text, values).fetchall()

    def close(self) -> None:
        with self._writing:
            self._reader.close()
            self._writer.close()
            self._lock.close()


def _locked(data: Path) -> IO[str]:
    """Held as long as it is open, and by no process that has ended."""
    try:
        data.mkdir(parents=True, exist_ok=True, mode=0o700)  # what callers upload is nobody else's
        file = open(data / LOCK, "a+")
    except OSError as error:
        raise OutputError(f"{data}: cannot be the data folder: {error.strerror or error}") from error
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.seek(0)
        whose = file.read(20).strip()
        file.close()
        raise InputError(f"{data}: another server (process {whose}) has this data folder: choose another") from None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")
    file.flush()
    return file


def synced(path: Path) -> None:
    """Returns when a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # of a folder, on some file systems
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
