"""Where the audio of a stream comes from, when it is not a sound card."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio import AudioReader, probe
from ussfast.errors import InputError
from ussfast.streaming.live.pace import at_pace, block_seconds
from ussfast.streaming.live.pcm import RawReader


class PipeSource:
    """Raw PCM from standard input.

    Args:
        file: sys.stdin, or None where it is closed.
        sample_rate: in Hz.
        channels: interleaved.
        format: as for RawReader.
    Raises:
        InputError: it is a terminal, or closed.
    """

    path: Path | None = None

    def __init__(self, file: Any, sample_rate: int, channels: int, format: str):
        if file is None or file.isatty():
            what = "closed" if file is None else "a terminal"
            raise InputError(f"standard input is {what}: pipe raw PCM into it, or name an audio file")
        self.sample_rate, self.channels = sample_rate, channels
        self._reader = RawReader(file.buffer, format, channels, sample_rate)

    def blocks(self, hop_seconds: float) -> Iterator[np.ndarray]:
        return iter(self._reader)


class FileSource:
    """An audio file at its own pace, in small blocks, as a microphone would give it.

    Args:
        path: of a file that `AudioReader` reads; raises as that does.
        fast: without waiting.
    """

    def __init__(self, path: Path, fast: bool):
        facts = probe(path)
        self.path: Path | None = path
        self.sample_rate, self.channels, self._fast = facts.sample_rate, facts.channels, fast

    def blocks(self, hop_seconds: float) -> Iterator[np.ndarray]:
        frames = max(1, round(block_seconds(hop_seconds) * self.sample_rate))
        with AudioReader(str(self.path), frames) as reader:
            yield from reader if self._fast else at_pace(reader, self.sample_rate)
