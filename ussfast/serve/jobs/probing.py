"""What an uploaded file is, by its header: found out in a process of its own, since decoders may crash on it.

Nothing here needs torch.
"""

import asyncio
import os
import signal
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ussfast.audio import AudioReader
from ussfast.audio.decode import DecodeError
from ussfast.errors import AudioError
from ussfast.serve.jobs.process import Died, Process
from ussfast.serve.problems import Problem

MOST_CHANNELS = 64
LONGEST_S = 30.0  # that a header may take
BLOCK = 1 << 12  # frames that are decoded to see whether it can be


@dataclass(frozen=True)
class Probed:
    """seconds: None where only decoding could tell."""

    sample_rate: int
    channels: int
    seconds: float | None


class Prober:
    """Looks at files one after the other. temporary: folder of temporary files."""

    def __init__(self, temporary: Path):
        self._process = Process(_main, temporary)
        self._thread = ThreadPoolExecutor(1, "ussfast-prober")

    async def probed(self, path: Path, name: str, most_s: float) -> Probed:
        """What a file's header says.

        Args:
            name: that the caller gave it.
            most_s: how long it may be.
        Raises:
            Problem: 415 for what is not audio, 422 for audio that cannot be read, is too long or has too many channels.
        """
        answer = await asyncio.get_running_loop().run_in_executor(self._thread, self._asked, path)
        if answer[0] == "failed":
            raise Problem(answer[1], answer[2].replace(str(path), name))
        found = Probed(*answer[1:])
        if found.seconds is not None and found.seconds > most_s:
            raise Problem(422, too_long(name, most_s, found.seconds))
        if found.channels > MOST_CHANNELS:
            raise Problem(422, f"{name}: {found.channels} channels; {MOST_CHANNELS} at most are taken here")
        return found

    def _asked(self, path: Path) -> tuple[Any, ...]:
        try:
            if not self._process.alive:
                self._process.start()
            return self._process.run({"path": str(path)}, timeout_s=LONGEST_S)
        except Died as error:
            return "failed", 422, f"{path}: it cannot be read: the decoder ended at it ({error})"

    def close(self) -> None:
        self._process.close()
        self._thread.shutdown(wait=False)


def too_long(name: str, most_s: float, seconds: float | None = None) -> str:
    """What to say about a file with more audio than is taken; seconds: as far as they are known."""
    what = "there is more audio in it" if seconds is None else f"its {seconds:.1f} s of audio are more"
    return f"{name}: {what} than is taken here, {most_s:g} s"


def look(path: str) -> tuple[Any, ...]:
    """("probed", rate, channels, seconds), or ("failed", status, detail)."""
    try:
        with AudioReader(path, BLOCK) as reader:
            next(reader)
            info = reader.info
    except AudioError as error:
        return "failed", 415 if isinstance(error.__cause__, DecodeError) else 422, str(error)
    except StopIteration:
        return "failed", 422, f"{path}: no audio in it"
    return "probed", info.sample_rate, info.channels, info.seconds


def _main(pipe: Connection, temporary: Path) -> None:
    """Of the process; it ends when the other end of the pipe does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    tempfile.tempdir = os.fspath(temporary)
    pipe.send(("ready",))
    while True:
        try:
            _, job = pipe.recv()
            pipe.send(look(job["path"]))
        except (EOFError, OSError):
            return
