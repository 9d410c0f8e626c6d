"""Many files: which there are, where their stems go, progress, and errors that stay with their file."""

import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from ussfast.audio import OutputFormat, Written, find_inputs, probe
from ussfast.errors import AudioError, InputError, UssfastError
from ussfast.separation import choose, output_labels, stem_paths

if TYPE_CHECKING:  # torch is not needed to tell which files there are
    from ussfast.separator import Separator


@dataclass(frozen=True)
class Job:
    """One input, and the directory that its stems go under."""

    path: Path
    directory: Path


@dataclass
class Result:
    job: Job
    labels: tuple[str, ...]
    outputs: Written = field(default_factory=Written)
    error: UssfastError | None = None
    work_seconds: float | None = None  # from decoding to the last written byte; None where nothing was computed

    def as_dict(self) -> dict[str, Any]:
        stems = {label: str(path) for label, path in zip(self.labels, self.outputs, strict=False)}
        error, seconds = str(self.error) if self.error else None, self.outputs.seconds
        rtf = self.work_seconds / seconds if self.work_seconds is not None and seconds else None
        return {
            "input": str(self.job.path), "stems": stems, "error": error, "seconds": seconds,
            "sample_rate": self.outputs.sample_rate, "channels": self.outputs.channels, "rtf": rtf,
            "warnings": list(self.outputs.warnings),
        }  # fmt: skip


def plan(inputs: Sequence[Path], output: Path, template: str, written: OutputFormat | None = None) -> list[Job]:
    """The jobs for these files and folders; a folder's tree is repeated under `output`.

    Raises:
        AudioError: a path is missing or a folder has no audio.
        InputError: two inputs would write the same stems, or the files cannot be as `written` says.
    """
    inside = output.resolve()
    jobs: dict[Path, Job] = {}
    for path, place in find_inputs(inputs):
        # Stems of an earlier run, when the output lies in the input folder, are not inputs.
        if path not in inputs and inside in path.resolve().parents:
            continue
        job = Job(path, output / place.parent)
        first = stem_paths(job.directory, template, ("label",), path.stem, written)[0]
        other = jobs.setdefault(first, job)
        if other is not job:
            raise InputError(
                f"{other.path} and {path} would write the same stems: put {{name}} into the template, "
                "or separate them into different directories"
            )
    if not jobs:
        raise AudioError(f"{', '.join(map(str, inputs))}: no audio besides what is in the output directory")
    return list(jobs.values())


def unreadable(jobs: Sequence[Job]) -> list[UssfastError] | None:
    """Why each of these files cannot be read; None as soon as one can, by what its header says."""
    errors = []
    for job in jobs:
        try:
            probe(job.path)
            return None
        except UssfastError as error:
            errors.append(error)
    return errors


class _Bar:
    """Seconds of audio over all files; on a terminal only."""

    def __init__(self, jobs: list[Job], quiet: bool):
        self.lock, self.done = threading.Lock(), dict[Path, float]()
        hide = quiet or not sys.stderr.isatty()
        total = None if hide else sum(filter(None, (_seconds(job.path) for job in jobs)))
        shown = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f}/{total:.0f} s of audio, {remaining} left"
        unknown = "{desc}: {n:.0f} s of audio in {elapsed}"
        self.bar = tqdm(total=total or None, disable=hide, desc="separating", bar_format=shown if total else unknown)

    def update(self, path: Path, seconds: float) -> None:
        with self.lock:
            self.bar.update(seconds - self.done.get(path, 0.0))
            self.done[path] = seconds


def _seconds(path: Path) -> float | None:
    with suppress(UssfastError):
        return probe(path).seconds
    return None  # the error comes when it is this file's turn


def separate_all(
    separator: "Separator", jobs: list[Job], *, jobs_at_once: int = 1, quiet: bool = False, options: dict[str, Any]
) -> list[Result]:
    """Separates every job; one that fails does not stop the others.

    Args:
        options: for Separator.separate_file.
    """
    bar, labels = _Bar(jobs, quiet), separator.labels()
    keep, residual = choose(labels, options["residual"], options.get("stems"))
    written = output_labels([labels[i] for i in keep], residual)

    def work(job: Job) -> Result:
        result, began = Result(job, written), time.perf_counter()
        try:
            result.outputs = separator.separate_file(
                job.path, job.directory, progress=lambda done, _: bar.update(job.path, done), **options
            )
            if result.outputs.seconds is None:  # all there already
                with suppress(UssfastError):
                    info = probe(job.path)
                    result.outputs = Written(result.outputs, info.seconds, info.sample_rate, info.channels)
            else:
                result.work_seconds = time.perf_counter() - began
        except UssfastError as error:
            result.error = error
        return result

    try:
        if jobs_at_once == 1:
            return [work(job) for job in jobs]
        with ThreadPoolExecutor(jobs_at_once) as pool:
            return list(pool.map(work, jobs))
    finally:
        bar.bar.close()
