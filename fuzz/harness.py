"""Runs workers, keeps the clock, and collects findings."""

import math
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
TARGETS = tuple(sorted(p.stem for p in (ROOT / "fuzz" / "targets").glob("[!_]*.py")))
START_SECONDS = 120  # imports of a process under a sanitizer
MOST = 20  # findings after which a target is given up


@dataclass
class Outcome:
    """What became of a target's inputs: so many taken, so many refused; findings by number.

    began: when the first process was ready.
    """

    target: str
    taken: int = 0
    refused: int = 0
    seconds: float = 0.0
    found: dict[int, str] = field(default_factory=dict)
    began: float | None = None

    @property
    def inputs(self) -> int:
        return self.taken + self.refused + len(self.found)


def fuzz(target: str, seed: int, first: int, count: int, seconds: float = math.inf) -> Outcome:
    """Gives `count` inputs to a target, or as many as fit into the time that begins when it is ready; a process that
    dies is a finding and is replaced by another."""
    outcome, number = Outcome(target), first
    scratch = tempfile.mkdtemp(prefix="ussfast-fuzz-")
    try:
        while number < first + count and not _over(outcome, seconds):
            number = _process(outcome, seed, number, first + count - number, seconds, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    outcome.seconds = 0.0 if outcome.began is None else time.monotonic() - outcome.began
    return outcome


def _over(outcome: Outcome, seconds: float) -> bool:
    late = outcome.began is not None and time.monotonic() > outcome.began + seconds
    return late or len(outcome.found) >= MOST


def _process(outcome: Outcome, seed: int, first: int, count: int, seconds: float, scratch: str) -> int:
    """One process; returns the number of the next input."""
    ours, theirs = os.pipe()
    command = [sys.executable, "-m", "fuzz.worker", outcome.target, *map(str, (seed, first, count, theirs)), scratch]
    log = open(Path(scratch) / "log", "w+b")
    worker = subprocess.Popen(command, pass_fds=(theirs,), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT)
    os.close(theirs)
    lines = _Lines(ours, START_SECONDS)
    number, running = first, False
    try:
        for line in lines:
            kind, *rest = line.split(" ", 2)
            if kind == "bound":  # the worker's own has passed long before
                lines.bound = 4 * float(rest[0]) + 5
                outcome.began = outcome.began or time.monotonic()
                continue
            if kind == "end":
                return first + count
            number, running = int(rest[0]), kind == "begin"
            if running:
                continue
            outcome.taken += kind == "ok"
            outcome.refused += kind == "refused"
            if kind == "found":
                outcome.found[number] = rest[1]
            number += 1
            if _over(outcome, seconds):
                return number
    except TimeoutError:
        outcome.found[number] = f"no answer for {lines.bound:.0f} s"
        return number + 1
    finally:
        os.close(ours)
        worker.kill()
        status = worker.wait()
        log.seek(0)
        said = log.read().decode(errors="replace").strip()
        log.close()
    if not running and number == first:
        raise RuntimeError(f"the process of {outcome.target} did not start: {said[-2000:]}")
    name = signal.Signals(-status).name if status < 0 else f"exit {status}"
    outcome.found[number] = f"the process ended: {name}: {' '.join(said.split())[-1500:]}"
    return number + 1


class _Lines:
    """Lines from a pipe until it ends; TimeoutError where none comes for `bound` seconds."""

    def __init__(self, pipe: int, bound: float):
        self.pipe, self.bound = pipe, bound

    def __iter__(self) -> Iterator[str]:
        rest = b""
        while True:
            if not select.select([self.pipe], [], [], self.bound)[0]:
                raise TimeoutError
            more = os.read(self.pipe, 1 << 16)
            if not more:
                return
            *lines, rest = (rest + more).split(b"\n")
            yield from (line.decode(errors="replace") for line in lines)
