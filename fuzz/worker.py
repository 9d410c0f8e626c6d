"""A process that runs inputs of one target one after the other and says on a pipe how each went.

Lines: "bound SECONDS", then for each input "begin N" and one of "ok N", "refused N" (a UssfastError) and
"found N what", N being its number.
"""

import importlib
import os
import random
import re
import resource
import shutil
import signal
import sys
import tempfile
import traceback
import types
import warnings
from pathlib import Path

from ussfast.errors import UssfastError

sys.path.append(str(Path(__file__).parents[1] / "tests"))  # small models

SANITIZED = bool(os.environ.get("ASAN_OPTIONS"))  # whose shadow memory is no bound's business
SPARE = 1 << 30  # what may be reserved but not used


class TooLong(BaseException):
    """The input's time is over; not an Exception, so that nothing takes it for its own."""


def main(name: str, seed: int, first: int, count: int, pipe: int, scratch: str) -> None:
    report = os.fdopen(pipe, "w", buffering=1)
    target = importlib.import_module(f"fuzz.targets.{name}")
    signal.signal(signal.SIGALRM, _alarm)
    warnings.simplefilter("ignore")
    own = Path(tempfile.mkdtemp(dir=scratch))
    context = target.prepare(own)
    print("bound", target.SECONDS, file=report)
    for number in range(first, first + count):
        print("begin", number, file=report)
        print(_run(target, context, f"{name}/{seed}/{number}", number, scratch), file=report)
    print("end", file=report)


def _run(target: types.ModuleType, context: object, key: str, number: int, scratch: str) -> str:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    before = _limit(target.MIB)
    signal.setitimer(signal.ITIMER_REAL, target.SECONDS)
    verdict = f"ok {number}"
    try:
        try:
            target.one(context, random.Random(key), folder)
        finally:  # in here, since time may be over before the alarm is off
            signal.setitimer(signal.ITIMER_REAL, 0)
    except UssfastError:
        verdict = f"refused {number}"
    except TooLong:
        verdict = f"found {number} more than {target.SECONDS} s: {_where(sys.exc_info()[2])}"
    except BaseException as error:
        text = re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:300]
        verdict = f"found {number} {text} @ {_where(error.__traceback__)}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    used = _peak() - before
    if verdict.startswith(("ok", "refused")) and not SANITIZED and used > target.MIB:
        verdict = f"found {number} {used} MiB, {target.MIB} are the bound"
    return verdict


def _alarm(*_: object) -> None:
    raise TooLong


def _where(trace: types.TracebackType | None) -> str:
    """The last of our own lines."""
    frames = [
        frame for frame in traceback.extract_tb(trace) if "ussfast/" in frame.filename or "fuzz/" in frame.filename
    ]
    return " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(frames[-4:]))


def _limit(mebibytes: int) -> int:
    """Sets the highest use of memory back to that of now, and returns it in MiB; far beyond the bound, memory cannot
    be had at all."""
    if not SANITIZED:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + 4 * (mebibytes << 20) + SPARE
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) >> 10


if __name__ == "__main__":
    seed, first, count, pipe = map(int, sys.argv[2:6])
    main(sys.argv[1], seed, first, count, pipe, sys.argv[6])
