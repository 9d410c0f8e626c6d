"""The stems of one recording, written together: to files of one format, and by one factor where they are rescaled."""

import math
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ussfast.audio.atomic import write_failure
from ussfast.audio.formats import OutputFormat
from ussfast.audio.writing import AudioWriter

HIGHEST = 1 - 2**-15  # what the highest peak is rescaled to: full scale of 16 bits
_BLOCK = 1 << 16  # frames of the second pass


class Written(list[Path]):
    """Paths of the files, one per stem, and about them:

    seconds, sample_rate (Hz), channels: of the recording; None where it was not looked at (`skip_existing`).
    warnings: what a listener might not expect: clamped or scaled samples, another rate in the file.
    fingerprint: SHA-256 of the input file's content, where a record of it was written or read.
    """

    def __init__(
        self,
        paths: Iterable[Path] = (),
        seconds: float | None = None,
        sample_rate: int | None = None,
        channels: int | None = None,
        warnings: Sequence[str] = (),
        fingerprint: str | None = None,
    ):
        super().__init__(paths)
        self.fingerprint = fingerprint
        self.seconds, self.sample_rate, self.channels, self.warnings = seconds, sample_rate, channels, tuple(warnings)


@contextmanager
def stem_files(
    paths: Sequence[Path],
    sample_rate: int,
    channels: int,
    output: OutputFormat,
    expected_frames: int | None = None,
    peak: float | None = None,
    between: Callable[[], object] = lambda: None,
) -> Iterator["StemWriter"]:
    """A StemWriter whose files are complete after the `with`; if its body raises, there are none.

    Args:
        paths: of the files, one per stem.
        sample_rate: in Hz.
        channels: of each stem.
        output: what the files are like.
        expected_frames: as for AudioWriter.
        peak: the largest magnitude in all stems, if it is known.
        between: called between the pieces of what is written at the end only; what it raises leaves no files.
    Raises:
        InputError, OutputError: as AudioWriter.
    """
    with ExitStack() as stack:
        writers = [
            stack.enter_context(AudioWriter(path, sample_rate, channels, output, expected_frames=expected_frames))
            for path in paths
        ]
        spools = None
        if output.clip == "rescale" and peak is None:
            spools = [stack.enter_context(_spool(path)) for path in paths]
        stems = StemWriter(writers, output.clip == "rescale", peak or 0.0, spools)
        yield stems
        stems.replay(between)


class StemWriter:
    """An AudioWriter per stem; made by `stem_files`.

    "rescale" needs the peak of all stems before the first sample is encoded. Where it is not known, the samples wait in
    nameless files (float32) beside the outputs and are read again at the end, so that memory stays bounded.
    """

    def __init__(self, writers: list[AudioWriter], rescale: bool, peak: float, spools: list[BinaryIO] | None):
        self._writers, self._rescale, self._peak, self._spools = writers, rescale, peak, spools

    @property
    def gain(self) -> float:
        """What "rescale" multiplies all stems by, once all are known."""
        return HIGHEST / self._peak if self._rescale and self._peak > HIGHEST else 1.0

    def write(self, stems: Iterable[np.ndarray]) -> None:
        """Appends float [channels, n] to every stem, in the order of the paths. Raises as AudioWriter.write does."""
        for index, (writer, stem) in enumerate(zip(self._writers, stems, strict=True)):
            if self._spools is None:
                self._encode(writer, stem)
                continue
            stem = writer.check(stem)
            self._peak = max(self._peak, float(np.abs(stem).max(initial=0)))
            with _told(writer.path):
                self._spools[index].write(np.ascontiguousarray(stem.T, np.float32).tobytes())

    def replay(self, between: Callable[[], object] = lambda: None) -> None:
        """Writes what has waited for the peak."""
        for writer, spool in zip(self._writers, self._spools or (), strict=False):
            with _told(writer.path):
                spool.seek(0)
            while data := spool.read(_BLOCK * 4 * writer.channels):
                between()
                self._encode(writer, np.frombuffer(data, np.float32).reshape(-1, writer.channels).T)

    def _encode(self, writer: AudioWriter, stem: np.ndarray) -> None:
        gain = self.gain
        writer.write(stem if gain == 1 else stem * np.float32(gain))

    def written(self) -> Written:
        """What was written; for after the `with`."""
        first, gain = self._writers[0], self.gain
        warnings = []
        if first.file_rate != first.sample_rate:
            what = f"{first.format} cannot have {first.sample_rate} Hz"
            warnings.append(f"{what}: the files have {first.file_rate} Hz")
        if gain < 1:
            what = f"all stems scaled by {gain:.4f} ({20 * math.log10(gain):.1f} dB)"
            warnings.append(f"{what}: the highest peak was {self._peak:.3f} of full scale")
        for writer in self._writers:
            if writer.clipped:
                warnings.append(f"{writer.path.name}: {writer.clipped} samples beyond full scale were clamped")
        seconds = first.frames / first.sample_rate
        return Written((w.path for w in self._writers), seconds, first.sample_rate, first.channels, warnings)


@contextmanager
def _spool(path: Path) -> Iterator[BinaryIO]:
    with _told(path):
        file = tempfile.TemporaryFile(dir=path.parent)
    try:
        yield file
    finally:
        with suppress(OSError):  # what was still buffered: nobody wants it any more
            file.close()


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise write_failure(path, error) from error
