"""Many files: progress, and errors that stay with their file."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.audio import Written, probe
from ussfast.audio.jobs import Job
from ussfast.audio.naming import check_inputs_stay, identities, stem_paths
from ussfast.cli.progress import Bar
from ussfast.errors import InputError, UssfastError
from ussfast.separation import choose, output_labels

if TYPE_CHECKING:  # torch is not needed to tell which files there are
    from ussfast.separator import Separator


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


def unreadable(jobs: Sequence[Job]) -> list[UssfastError] | None:
    """Why each of these files cannot be read; None as soon as one can, by what its header says."""
    errors = []
    for job in jobs:
        try:
            if job.error is None:
                probe(job.path)
                return None
            errors.append(job.error)
        except UssfastError as error:
            errors.append(error)
    return errors


class _Stopped(BaseException):
    """The run has been interrupted; not an Exception, so that nothing takes it for its own."""


def separate_all(
    separator: "Separator",
    jobs: list[Job],
    prompts: Sequence[str] | Callable[[Path], Any] | None = None,
    *,
    jobs_at_once: int = 1,
    quiet: bool = False,
    options: dict[str, Any],
    keep: Sequence[Path] = (),
) -> list[Result]:
    """Separates every job; one that fails does not stop the others.

    An interrupt stops those that are under way, too, at their next window.

    Args:
        prompts: of all jobs, or what finds those of a file; by default the separator's.
        options: for Separator.separate_file.
        keep: files besides the inputs that no stem may replace.
    """
    bar, stop = Bar(jobs, "separating", quiet), threading.Event()
    check = _Places([*(job.path for job in jobs if job.error is None), *keep])

    def labels(prompts: Any) -> tuple[str, ...]:
        found = separator.labels(prompts)
        chosen, residual = choose(found, options["residual"], options.get("stems"))
        return output_labels([found[i] for i in chosen], residual)

    written = () if callable(prompts) else labels(prompts)

    def separate(job: Job, result: Result) -> None:
        def progress(done: float, _: float | None) -> None:
            if stop.is_set():
                raise _Stopped
            bar.update(job.path, done)

        began = time.perf_counter()
        asked: Any = prompts
        if callable(prompts):
            asked = prompts(job.path)
            result.labels = labels(asked)
        check.free(job, stem_paths(
            job.directory, options["template"], result.labels, job.name, options["format"], job.path.suffix[1:]
        ))  # fmt: skip
        result.outputs = separator.separate_file(
            job.path, job.directory, prompts=asked, progress=progress, name=job.name, **options
        )
        if result.outputs.seconds is None:  # all there already
            with suppress(UssfastError):
                info = probe(job.path)
                result.outputs = Written(result.outputs, info.seconds, info.sample_rate, info.channels)
        else:
            result.work_seconds = time.perf_counter() - began

    def work(job: Job) -> Result:
        result = Result(job, written, error=job.error)
        if stop.is_set():
            raise _Stopped
        try:
            if job.error is None:
                separate(job, result)
        except UssfastError as error:
            result.error = error
        except Exception as error:  # a fault of ours is no reason to leave the other files alone
            result.error = UssfastError(f"{job.path}: failed unexpectedly: {type(error).__name__}: {error}")
        return result

    try:
        if jobs_at_once == 1:
            return [work(job) for job in jobs]
        pool = ThreadPoolExecutor(jobs_at_once)
        try:
            return list(pool.map(work, jobs))
        except BaseException:
            stop.set()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
    finally:
        bar.close()


class _Places:
    """Files that stems may not replace: all inputs, and stems of other inputs."""

    def __init__(self, inputs: Sequence[Path]):
        self.inputs, self.written, self.lock = identities(inputs), dict[Path, Job](), threading.Lock()

    def free(self, job: Job, paths: list[Path]) -> None:
        """InputError where one is not free for this job."""
        check_inputs_stay(paths, self.inputs)
        with self.lock:
            for path in paths:
                if (other := self.written.setdefault(path, job)) is not job:
                    raise InputError(f"{job.path}: {path} is a stem of {other.path} already: choose another template")
