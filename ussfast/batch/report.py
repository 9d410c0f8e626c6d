"""What became of a collection, in files: rows as they come, failures by themselves, a summary at the end."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ussfast.audio import atomic_write
from ussfast.audio.naming import make_folders
from ussfast.batch.task import DONE, FAILED, SKIPPED, Row
from ussfast.errors import OutputError

SUMMARY, FAILURES, RESULTS = "report.json", "failures.jsonl", "results"


@dataclass
class Summary:
    """Of a run.

    inputs: that there were in all; done, skipped, failed: of them.
    audio_seconds: of what was done now; elapsed_seconds: from the first file found to the last one done.
    hours_per_hour: hours of audio in an hour.
    complete: False as long as the run is under way, and after one that was interrupted.
    """

    inputs: int = 0
    done: int = 0
    skipped: int = 0
    failed: int = 0
    audio_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    workers: int = 0
    complete: bool = False

    @property
    def hours_per_hour(self) -> float:
        return self.audio_seconds / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"hours_per_hour": round(self.hours_per_hour, 3)}


class Report:
    """A folder with the files about the last run.

    results/N.jsonl: a row for each file of a shard, once the shard is complete.
    failures.jsonl: the rows of what failed.
    report.json: the summary.

    Raises:
        OutputError: also later, when they are written.
    """

    def __init__(self, folder: Path):
        self.folder, self.summary, self.worst = folder, Summary(), 0
        self.errors: list[str] = []  # the first few
        self.failures = folder / FAILURES
        self._began = time.monotonic()
        make_folders([folder / SUMMARY, folder / RESULTS / "0.jsonl"])
        try:
            for old in (*(folder / RESULTS).glob("*.jsonl"), folder / FAILURES):
                old.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"{folder}: what an earlier run told could not be removed: {error.strerror}") from error
        self._write_summary()

    def add(self, shard: int, rows: Sequence[Row]) -> None:
        """Rows of a shard, which is complete."""
        with atomic_write(self.folder / RESULTS / f"{shard:06}.jsonl") as temporary:
            temporary.write_text("".join(_line(row) for row in rows))
        if failed := [row for row in rows if row.status == FAILED]:
            self._append(failed)
        summary = self.summary
        summary.done += sum(row.status == DONE for row in rows)
        summary.skipped += sum(row.status == SKIPPED for row in rows)
        summary.failed += len(failed)
        summary.audio_seconds += sum(row.seconds or 0.0 for row in rows if row.status == DONE)
        self.worst = max([self.worst, *(row.exit_code for row in failed)])
        self.errors += [row.error or "" for row in failed][: max(0, 20 - len(self.errors))]

    def close(self, complete: bool) -> Summary:
        """The summary as it is now."""
        self.summary.elapsed_seconds = round(time.monotonic() - self._began, 3)
        self.summary.complete = complete
        self._write_summary()
        return self.summary

    def _append(self, rows: Sequence[Row]) -> None:
        path = self.failures
        try:
            with open(path, "a") as file:
                file.write("".join(_line(row) for row in rows))
        except OSError as error:
            raise OutputError(f"{path}: could not be written: {error.strerror}") from error

    def _write_summary(self) -> None:
        with atomic_write(self.folder / SUMMARY) as temporary:
            temporary.write_text(json.dumps(self.summary.as_dict(), indent=1) + "\n")


def _line(row: Row) -> str:
    return json.dumps(row.as_dict()) + "\n"
