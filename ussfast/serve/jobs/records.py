"""Jobs as they are kept, and as callers see them."""

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import quote

from ussfast.serve.store import Store

Kind = Literal["separation", "enroll", "tune"]
Status = Literal["queued", "running", "done", "failed", "cancelled"]
STATUSES: tuple[Status, ...] = ("queued", "running", "done", "failed", "cancelled")
OVER = ("done", "failed", "cancelled")
MEDIA_TYPES = {"wav": "audio/wav", "flac": "audio/flac", "mp3": "audio/mpeg", "ogg": "audio/ogg", "opus": "audio/ogg"}


@dataclass(frozen=True)
class Job:
    """Times in seconds since 1970.

    asked: arguments, as the worker takes them. files: what was uploaded, by the names that callers gave; on disk they
    are those of `files_of`. attached: whether a caller waits for it, without whom nobody wants it. starts: how often it
    was begun, deaths: how often the worker ended meanwhile. outputs: each label, file, bytes, media_type.
    """

    id: str
    kind: Kind
    asked: dict[str, Any]
    files: tuple[dict[str, Any], ...]
    created: float
    input: dict[str, Any] | None = None
    prompts: tuple[str, ...] = ()
    prompt: str | None = None
    attached: bool = False
    status: Status = "queued"
    starts: int = 0
    deaths: int = 0
    started: float | None = None
    finished: float | None = None
    expires: float | None = None
    outputs: tuple[dict[str, Any], ...] = ()
    error: dict[str, Any] | None = None
    warnings: tuple[str, ...] = ()

    @property
    def over(self) -> bool:
        return self.status in OVER

    def ended(self, status: Status, keep_s: float, **facts: Any) -> "Job":
        now = time.time()
        return replace(self, status=status, finished=now, expires=now + keep_s, **facts)


@dataclass
class Progress:
    """Of a running job: seconds done and in all, of audio or, in tuning, of time."""

    done_s: float = 0.0
    total_s: float | None = None
    message: str | None = None


def new_id() -> str:
    return secrets.token_hex(16)


def shown(job: Job, progress: Progress | None = None) -> dict[str, Any]:
    """The job as JSON has it."""
    place = f"/v1/jobs/{job.id}"
    total = None if job.input is None else job.input["seconds"]
    if progress is None:
        progress = Progress(total if job.status == "done" and total is not None else 0.0, total)
    outputs = [
        {
            "label": one["label"], "url": f"{place}/stems/{quote(one['label'], safe='')}",
            "media_type": one["media_type"], "bytes": one["bytes"],
        }
        for one in job.outputs
    ]  # fmt: skip
    return {
        "id": job.id, "kind": job.kind, "status": job.status,
        "created": iso(job.created), "started": iso(job.started), "finished": iso(job.finished),
        "expires": iso(job.expires), "progress": asdict(progress), "input": job.input, "prompts": list(job.prompts),
        "outputs": outputs, "prompt": job.prompt, "error": job.error, "warnings": list(job.warnings),
    }  # fmt: skip


def iso(seconds: float | None) -> str | None:
    """A time since 1970 as ISO 8601 has it, in UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


TABLE = """CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, status TEXT NOT NULL, expires REAL,
    job TEXT NOT NULL
)"""
NAMES = {one.name for one in fields(Job)}


class Records:
    """The table of jobs."""

    def __init__(self, store: Store):
        self._store = store
        store.write((TABLE,), ("CREATE INDEX IF NOT EXISTS jobs_status ON jobs (status)",))

    def add(self, job: Job) -> None:
        text = "INSERT INTO jobs (id, status, expires, job) VALUES (?, ?, ?, ?)"
        self._store.write((text, job.id, job.status, job.expires, json.dumps(asdict(job))))

    def change(self, *jobs: Job) -> None:
        text = "UPDATE jobs SET status = ?, expires = ?, job = ? WHERE id = ?"
        self._store.write(*((text, job.status, job.expires, json.dumps(asdict(job)), job.id) for job in jobs))

    def remove(self, ids: Iterable[str]) -> None:
        self._store.write(*(("DELETE FROM jobs WHERE id = ?", id) for id in ids))

    def get(self, id: str) -> Job | None:
        return next(iter(self._jobs("WHERE id = ?", id)), None)

    def newest(self, limit: int) -> list[Job]:
        return self._jobs("ORDER BY number DESC LIMIT ?", limit)

    def unfinished(self) -> list[Job]:
        """Those that were accepted and are not over, the oldest first."""
        return self._jobs("WHERE status IN ('queued', 'running') ORDER BY number")

    def expired(self, now: float) -> list[str]:
        return [row[0] for row in self._store.read("SELECT id FROM jobs WHERE expires < ?", now)]

    def ids(self) -> set[str]:
        return {row[0] for row in self._store.read("SELECT id FROM jobs")}

    def counts(self) -> dict[str, int]:
        """How many there are by status."""
        found: dict[str, int] = dict.fromkeys(STATUSES, 0)
        for status, count in self._store.read("SELECT status, count(*) FROM jobs GROUP BY status"):
            found[status] = count
        return found

    def _jobs(self, rest: str, *values: Any) -> list[Job]:
        return [_job(row[0]) for row in self._store.read(f"SELECT job FROM jobs {rest}", *values)]


def _job(text: str) -> Job:
    facts = json.loads(text)
    lists = {name: tuple(facts[name]) for name in ("files", "prompts", "outputs", "warnings")}
    return Job(**{name: value for name, value in facts.items() if name in NAMES} | lists)
