"""The process that works on jobs: a separator of its own, one job at a time, at low priority.

It answers with ("progress", done_s, total_s, message), ("done", facts), ("failed", status, detail) or ("cancelled",).
It ends when the other end of its pipe does.
"""

import contextlib
import os
import shutil
import signal
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from ussfast.errors import AudioError, OutputError, PromptWarning
from ussfast.serve.jobs.probing import BLOCK, too_long
from ussfast.serve.problems import problem_of

OOM = 500  # the kernel takes memory from this process before it does from the server
TELL_S = 0.25  # from one message of progress to the next


@dataclass(frozen=True)
class Model:
    """Which separator; see `ServeSettings`, as for nice. temporary: folder of temporary files."""

    model: str
    device: str
    dtype: str
    detector: str | None
    temporary: Path
    nice: int


class Cancelled(Exception):
    """Nobody wants the job any more."""


def main(pipe: Connection, model: Model) -> None:
    """Of the process."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # service managers send it to all: the server says when it is over
    with contextlib.suppress(OSError, AttributeError):
        os.nice(model.nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM))
    tempfile.tempdir = os.fspath(model.temporary)
    worker = _Worker(pipe, model)
    threading.Thread(target=worker.listen, daemon=True).start()
    worker.work()


class _Worker:
    def __init__(self, pipe: Connection, model: Model):
        from ussfast.separator import Separator

        self._pipe, self._told = pipe, 0.0
        self._jobs, self._there = list[dict[str, Any]](), threading.Semaphore(0)
        self._cancelled: str | None = None
        self._separator = Separator(model.model, device=model.device, dtype=model.dtype, detector=model.detector)

    def listen(self) -> None:
        """Takes what is sent; the process ends with the server, whatever it is at."""
        while True:
            try:
                kind, value = self._pipe.recv()
            except (EOFError, OSError):
                os._exit(1)
            if kind == "cancel":
                self._cancelled = value
            else:
                self._jobs.append(value)
                self._there.release()

    def work(self) -> None:
        self._pipe.send(("ready",))
        while True:
            self._there.acquire()
            job = self._jobs.pop(0)
            try:
                answer: tuple[Any, ...] = ("done", self._do(job))
            except Cancelled:
                answer = ("cancelled",)
            except Exception as error:
                problem = problem_of(error)
                if problem.status == 500:
                    traceback.print_exc()  # into the server's log
                answer = ("failed", problem.status, renamed(problem.detail, job))
            if answer[0] != "done":
                shutil.rmtree(job["folder"], ignore_errors=True)
            self._pipe.send(answer)

    def _do(self, job: dict[str, Any]) -> dict[str, Any]:
        self._job, self._told = job, 0.0
        folder = Path(job["folder"])
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for bank in job["banks"]:
            self._separator.load_prompts(bank)
        do = {"separation": self._separate, "enroll": self._enroll, "tune": self._tune}[job["kind"]]
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", PromptWarning)
            facts = do(job, folder)
        said = [str(one.message) for one in caught if issubclass(one.category, PromptWarning)]
        facts["warnings"] = [renamed(text, job) for text in [*facts.get("warnings", ()), *said]]
        return facts

    def _tell(self, done_s: float, total_s: float | None, message: str | None = None) -> None:
        """Progress, for who asks; Cancelled if nobody does."""
        if self._cancelled == self._job["id"]:
            raise Cancelled
        now = time.monotonic()
        if now - self._told >= TELL_S:
            self._told = now
            self._pipe.send(("progress", done_s, total_s, message))

    def _separate(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        from ussfast.audio import OutputFormat
        from ussfast.separation import choose, output_labels

        separator, most = self._separator, job["most_s"]
        output = OutputFormat(job["format"], job["bit_depth"])
        prompts = job["prompts"] or None

        def each(done_s: float, total_s: float | None) -> None:
            if done_s > most:  # the header did not say so
                raise AudioError(too_long(job["files"][0]["name"], most))
            if done_s * job["bytes_per_s"] > job["most_bytes"]:
                raise OutputError("the data folder has no room for the stems")
            self._tell(done_s, total_s)

        written = separator.separate_file(
            job["files"][0]["path"], folder, prompts=prompts, template="{label}", residual=job["residual"],
            format=output, stems=job["stems"], progress=each,
        )  # fmt: skip
        labels = separator.labels(prompts)
        keep, rest = choose(labels, job["residual"], job["stems"])
        named = output_labels([labels[i] for i in keep], rest)
        outputs = [
            {"label": label, "file": path.name, "bytes": path.stat().st_size}
            for label, path in zip(named, written, strict=True)
        ]
        return {"outputs": outputs, "seconds": written.seconds, "warnings": written.warnings}

    def _enroll(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        self._separator.enroll(job["name"], self._clips(job))
        return self._saved(job, folder)

    def _tune(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        clips, began = self._clips(job), time.monotonic()
        total = None if job["minutes"] is None else 60 * job["minutes"]

        def each(step: Any) -> None:
            text = f"held-out SDR {step.best:.1f} dB, {step.before:.1f} dB before tuning"
            self._tell(time.monotonic() - began, total, text)

        self._separator.tune(job["name"], clips, minutes=job["minutes"], on_step=each)
        return self._saved(job, folder)

    def _clips(self, job: dict[str, Any]) -> list[str]:
        """Their paths, once it is sure that none is longer than it may be."""
        from ussfast.audio import AudioReader

        for file in job["files"]:
            with AudioReader(file["path"], BLOCK) as reader:
                frames = 0
                for block in reader:
                    frames += block.shape[1]
                    self._tell(0.0, None)
                    if frames > job["most_s"] * reader.sample_rate:
                        raise AudioError(too_long(file["name"], job["most_s"]))
        return [file["path"] for file in job["files"]]

    def _saved(self, job: dict[str, Any], folder: Path) -> dict[str, Any]:
        self._separator.save_prompts(folder / "prompt.safetensors", job["name"])
        return {}


def renamed(text: str, job: dict[str, Any]) -> str:
    """Without paths of this machine: files as callers know them."""
    for file in job["files"]:
        text = text.replace(file["path"], file["name"])
    return text.replace(f"{job['folder']}/", "").replace(job["folder"], "the job's folder")
