"""The worker's process as the server has it: started, told jobs, ended, started again."""

import contextlib
import multiprocessing
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from ussfast.serve.jobs.worker import Model, main

SPAWN = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
START_S, END_S = 300.0, 5.0


class Died(Exception):
    """The process ended by itself, or was made to; the text says how."""


class Process:
    """One process. `run` and `start` belong to one thread, `cancel` and `kill` to any."""

    def __init__(self, model: Model):
        self._model, self._knowing = model, threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self._closed = False

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    def start(self) -> None:
        """Returns when it is ready; Died if it does not get there."""
        self.kill()
        with self._knowing:
            if self._closed:
                raise Died("the server ends")
            ours, theirs = SPAWN.Pipe()
            self._process = SPAWN.Process(target=main, args=(theirs, self._model), name="ussfast-worker", daemon=True)
            self._process.start()
            theirs.close()
            self._pipe = ours
        if not ours.poll(START_S):
            self.kill()
            raise Died(f"it was not ready after {START_S:g} s")
        self._received()

    def run(self, job: dict[str, Any], progress: Callable[..., None]) -> tuple[Any, ...]:
        """What came of a job: ("done", facts), ("failed", status, detail) or ("cancelled",).

        Args:
            progress: called with seconds done and in all, and a message.
        Raises:
            Died: the process ended meanwhile.
        """
        with self._knowing:
            self._send(("job", job))
        while True:
            kind, *rest = self._received()
            if kind != "progress":
                return kind, *rest
            progress(*rest)

    def cancel(self, id: str) -> None:
        """Asks it to stop at this job, if it is at it."""
        with self._knowing:
            with contextlib.suppress(Died):
                self._send(("cancel", id))

    def kill(self) -> None:
        """Ends it at once; whoever waits in `run` meets Died."""
        with self._knowing:
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Ends it for good."""
        self._closed = True
        self.kill()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            if self._pipe is None:
                raise Died("it was never started")
            self._pipe.send(message)
        except OSError as error:
            raise Died(self._how()) from error

    def _received(self) -> Any:
        assert self._pipe is not None
        try:
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise Died(self._how()) from error

    def _how(self) -> str:
        self._process.join(END_S)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
