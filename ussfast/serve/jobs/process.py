"""A process beside the server: started, told jobs, ended, started again."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

SPAWN = multiprocessing.get_context("spawn")  # a fork of a program with threads may hang
START_S, END_S = 300.0, 5.0


class Died(Exception):
    """The process ended by itself, or was made to; the text says how."""


class Process:
    """One process, in a group of its own with what it starts. `run` and `start` belong to one thread, the rest to any.

    closed: whether it was ended for good.

    Args:
        target, arguments: of the process: target(pipe, *arguments). It says ("ready",) on its pipe, is told
            ("job", job) and ("cancel", id) there, and answers with ("progress", ...) or the end of a job.
    """

    def __init__(self, target: Callable[..., None], *arguments: Any):
        self._target, self._arguments, self._knowing = target, arguments, threading.Lock()
        self._process: Any = None
        self._pipe: Connection | None = None
        self.closed = False

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
            if self.closed:
                raise Died("the server ends")
            if self._process is not None:
                self._process.join(END_S)
            if self._pipe is not None:
                self._pipe.close()
            self._pipe, theirs = SPAWN.Pipe()
            self._process = SPAWN.Process(target=_begin, args=(theirs, self._target, self._arguments), daemon=True)
            self._process.start()
            theirs.close()
        self._received(START_S)

    def run(
        self, job: dict[str, Any], progress: Callable[..., None] | None = None, timeout_s: float | None = None
    ) -> tuple[Any, ...]:
        """What came of a job, as the process says it.

        Args:
            progress: called with what the process says of it meanwhile.
            timeout_s: after so long without a word the process is ended.
        Raises:
            Died: the process ended meanwhile.
        """
        with self._knowing:
            self._send(("job", job))
        while True:
            kind, *rest = self._received(timeout_s)
            if kind != "progress":
                return kind, *rest
            if progress is not None:
                progress(*rest)

    def cancel(self, id: str) -> None:
        """Asks it to stop at this job, if it is at it."""
        with self._knowing, contextlib.suppress(Died):
            self._send(("cancel", id))

    def kill(self) -> None:
        """Ends it at once, and what it started; whoever waits in `run` meets Died."""
        process = self._process
        if process is not None and process.pid is not None and process.exitcode is None:
            with contextlib.suppress(OSError):
                os.killpg(process.pid, signal.SIGKILL)
            process.kill()  # where it has no group of its own yet

    def close(self) -> None:
        """Ends it for good."""
        self.closed = True
        with self._knowing:  # not while one is being started
            self.kill()

    def _send(self, message: tuple[Any, ...]) -> None:
        try:
            if self._pipe is None:
                raise Died("it was never started")
            self._pipe.send(message)
        except OSError as error:
            raise Died(self._how()) from error

    def _received(self, timeout_s: float | None) -> Any:
        assert self._pipe is not None
        try:
            if not self._pipe.poll(timeout_s):
                self.kill()
                raise Died(f"it said nothing for {timeout_s:g} s")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise Died(self._how()) from error

    def _how(self) -> str:
        self._process.join(END_S)
        code = self._process.exitcode
        return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"


def _begin(pipe: Connection, target: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    os.setpgid(0, 0)  # Ctrl-C is for the server, and what this starts ends with it
    target(pipe, *arguments)
