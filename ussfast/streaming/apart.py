"""Tuning in a process of its own, which a stream never waits for.

A thread would share Python's lock with the stream's. Where the machine is busy, a thread of low priority is taken off
its core while it holds the lock, and everyone waits until it gets another turn: see bench/NOTES.md.
"""

import json
import os
import pickle
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NoReturn

from ussfast.engine.moving import sent
from ussfast.errors import InputError, PromptWarning, UssfastError

# Low priority before anything else, for loading PyTorch is work, too.
CODE = """
import json, os, sys
if sys.platform == "linux":
    try:
        os.setpriority(os.PRIO_PROCESS, 0, 19)
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except OSError:
        pass
sys.path[:] = json.loads(sys.argv[1])
from ussfast.streaming.apart import main
main()
"""
GO = b"\n"  # to the process: it may make its next step


class Cancelled(Exception):
    """The work was stopped."""


class Apart:
    """Work of `Separator.tune`, on one thread of the CPU, which Linux runs when nobody else wants to.

    Args:
        separator, arguments, settings: of the call; all of it is pickled.
    """

    def __init__(self, separator: Any, arguments: tuple[Any, ...], settings: dict[str, Any]):
        self._call = separator, arguments, settings
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped, self._knowing, self._owner = False, threading.Lock(), os.getpid()

    def run(self, each: Callable[[Any], None]) -> Any:
        """Does it, and waits.

        Args:
            each: called with the `TuneStep` of every step, which the next one waits for.
        Returns:
            the prompt, on the CPU.
        Raises:
            Cancelled: by `stop`. InputError: something that cannot be pickled. What `Separator.tune` raises.
            UssfastError: the process ended by itself.
        Warns:
            PromptWarning: as `Separator.tune`.
        """
        try:
            job = pickle.dumps((sent(self._call[0]), *self._call[1:]))
        except Exception as error:  # of whatever has been given
            raise InputError(f"clips beside a stream are paths or arrays, for another process: {error}") from error
        process = self._started()
        try:
            return self._talk(process, job, each)
        finally:
            self.stop()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                _closed(pipe)

    def stop(self) -> None:
        """Ends the work at once, from any thread, but from no process that was forked meanwhile."""
        if os.getpid() != self._owner:
            return
        with self._knowing:
            self._stopped = True
            if self._process is not None:
                self._process.kill()

    def _started(self) -> "subprocess.Popen[bytes]":
        with self._knowing:
            if self._stopped:
                raise Cancelled
            self._process = subprocess.Popen(
                [sys.executable, "-c", CODE, json.dumps(sys.path)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                # Ctrl-C is for the stream. No session of its own, for between sessions Linux knows no priorities.
                process_group=0,
            )  # fmt: skip
            return self._process

    def _talk(self, process: "subprocess.Popen[bytes]", job: bytes, each: Callable[[Any], None]) -> Any:
        self._send(process, job)
        prompt: Any = None
        while True:
            kind, value, newer = self._received(process)
            if kind == "error":
                raise value
            if kind == "warning":
                warnings.warn(value, stacklevel=2)
                continue
            prompt = newer or prompt
            if kind == "end":
                return prompt
            each(replace(value, prompt=prompt))
            self._send(process, GO)

    def _send(self, process: "subprocess.Popen[bytes]", data: bytes) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(data)
            process.stdin.flush()
        except OSError as error:
            self._gone(process, error)

    def _received(self, process: "subprocess.Popen[bytes]") -> Any:
        assert process.stdout is not None
        try:
            return pickle.load(process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            self._gone(process, error)

    def _gone(self, process: "subprocess.Popen[bytes]", error: Exception) -> NoReturn:
        if self._stopped:
            raise Cancelled from None
        raise UssfastError(f"the process that tunes has ended by itself, with {process.wait()}") from error


def _closed(pipe: Any) -> None:
    try:
        pipe.close()
    except OSError:  # nobody reads what is left
        pass


def main() -> None:
    """The other process: a call on standard input, what comes of it on standard output."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no message
    made, arguments, settings = pickle.load(sys.stdin.buffer)

    import torch

    torch.set_num_threads(1)
    turns = threading.Semaphore(0)
    newest: list[Any] = [None]

    def listen() -> None:
        """For turns, and for the end of who wants the work."""
        while sys.stdin.buffer.read(1):
            turns.release()
        os._exit(1)

    threading.Thread(target=listen, daemon=True).start()

    def tell(kind: str, value: Any, prompt: Any) -> None:
        newer = None if prompt is newest[0] else replace(prompt, vector=prompt.vector.detach().cpu())
        newest[0] = prompt
        pickle.dump((kind, value, newer), out)
        out.flush()

    def show(message: Warning | str, *rest: Any, **more: Any) -> None:
        if isinstance(message, PromptWarning):
            tell("warning", message, newest[0])

    def each(step: Any) -> None:
        tell("step", replace(step, prompt=None), step.prompt)
        turns.acquire()

    warnings.showwarning = show
    try:
        tell("end", None, made().tune(*arguments, on_step=each, **settings))
    except BaseException as error:
        newest[0] = None
        tell("error", _sendable(error), None)
    os._exit(0)  # at once: nothing here is anybody's


def _sendable(error: BaseException) -> BaseException:
    try:
        return error if type(pickle.loads(pickle.dumps(error))) is type(error) else RuntimeError(repr(error))
    except Exception:
        return RuntimeError(repr(error))
