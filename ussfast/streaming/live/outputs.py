"""Where the pieces of a stream go: chosen stems as channels, and files of all stems."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ussfast.audio import AudioWriter
from ussfast.audio.naming import check_inputs_stay, identities, make_folders, stem_paths
from ussfast.errors import InputError
from ussfast.interrupts import held
from ussfast.prompts.names import RESIDUAL
from ussfast.separation import Separation, choose, output_labels


def check_standard_output() -> None:
    """InputError where raw PCM cannot go there."""
    if sys.stdout is None or sys.stdout.isatty():
        what = "closed" if sys.stdout is None else "a terminal"
        raise InputError(f"standard output is {what}: pipe or redirect the raw PCM, or write files with -o DIR")


class Selection:
    """The stems that are put out as the channels of one stream, stem by stem.

    Args:
        labels: of the session's stems.
        stem: one of them, or "residual"; None for all in the order of labels.
        all_stems: says that all are meant, which must be said where there are several.
    Raises:
        InputError: an unknown stem, or several and none chosen.
    """

    def __init__(self, labels: Sequence[str], stem: str | None = None, all_stems: bool = False):
        if stem is not None and stem not in (*labels, RESIDUAL):
            raise InputError(f"unknown stem {stem!r}; there are {', '.join((*labels, RESIDUAL))}")
        if stem is None and not all_stems and len(labels) != 1:
            raise InputError(
                f"several stems ({', '.join(labels)}): choose one with --stem NAME, or all as channels with --all"
            )
        self.names = tuple(labels) if stem is None else (stem,)

    def channels(self, piece: Separation) -> np.ndarray:
        """[stems * channels, samples]: the first stem's channels, then the second's, and so on."""
        return np.concatenate([_track(piece, name) for name in self.names])


def _track(piece: Separation, name: str) -> np.ndarray:
    return piece.residual if name == RESIDUAL and name not in piece else piece[name]


class StemFiles:
    """One WAV (float32) per stem, written while the stream runs.

    As a context manager it completes the files at the end, however the stream ended: what was done until then is
    kept. Files without any audio do not appear.

    Attributes: written (the paths of complete files, at the end).

    Args:
        directory: made if it is missing.
        labels: of the session's stems; the files are named after them.
        residual: also writes residual.wav.
        sample_rate: in Hz.
        channels: of each stem.
        source: the input if it is a file; stay: other files that were read. No output may replace them.
        keep: labels of the stems that get a file; by default all.
    Raises:
        InputError: an unknown label; an output would replace the input.
        OutputError: a file cannot be written; also from `write` and at the end.
    """

    def __init__(
        self,
        directory: Path,
        labels: Sequence[str],
        residual: bool,
        sample_rate: int,
        channels: int,
        source: Path | None = None,
        keep: Sequence[str] | None = None,
        stay: Sequence[Path] = (),
    ):
        self._keep, residual = choose(labels, residual, keep)
        written = output_labels([labels[i] for i in self._keep], residual)
        paths = stem_paths(directory, "{label}.wav", written, "stream")
        check_inputs_stay(paths, identities([*stay, *([] if source is None else [source])]))
        make_folders(paths)
        self._residual = residual
        self.written: list[Path] = []
        with ExitStack() as stack:
            self._writers = [stack.enter_context(AudioWriter(path, sample_rate, channels)) for path in paths]
            stack.pop_all()

    def write(self, piece: Separation) -> None:
        """Appends a piece to every file; one that cannot be written is removed, and OutputError says so."""
        tracks = [*(piece.stems[i] for i in self._keep), *([piece.residual] if self._residual else [])]
        for writer, track in zip(list(self._writers), tracks, strict=True):
            try:
                writer.write(track)
            except BaseException:
                writer.abort()
                self._writers.remove(writer)
                raise

    def __enter__(self) -> "StemFiles":
        return self

    def __exit__(self, *exc: object) -> None:
        with held(), ExitStack() as stack:  # one file that fails does not keep the others from being completed
            for writer in reversed(self._writers):
                stack.callback(self._complete, writer)

    def _complete(self, writer: AudioWriter) -> None:
        if writer.frames == 0:
            writer.abort()
            return
        writer.close()
        self.written.append(writer.path)
