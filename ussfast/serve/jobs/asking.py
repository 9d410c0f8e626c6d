"""Forms as jobs: what is asked for is checked before anything is accepted, and its files are put where they stay."""

import asyncio
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ussfast.audio import FORMATS, OutputFormat
from ussfast.errors import InputError
from ussfast.separation import choose, output_labels
from ussfast.serve.jobs.records import MEDIA_TYPES, Job, Kind, new_id
from ussfast.serve.jobs.uploads import Form, Upload
from ussfast.serve.problems import Problem
from ussfast.serve.server import Server
from ussfast.serve.store import synced
from ussfast.values import number, one_of

SEPARATION = ("prompts", "stems", "residual", "format", "bit_depth")
ENROLMENT = ("name", "tune", "minutes")
FLAGS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}
UNKNOWN_S = 600.0  # of audio whose header does not say how long it is, where room is asked for
MOST_MINUTES = 60.0  # of tuning
BYTES = {"wav": 4.0, "flac": 3.0, "mp3": 1.0, "ogg": 1.0, "opus": 1.0}  # of a sample, at most


class Asked:
    """A job that can be accepted: `labels` are those of its outputs."""

    def __init__(self, job: Job, labels: Sequence[str], uploads: Sequence[Upload]):
        self.job, self.labels, self._uploads = job, tuple(labels), uploads

    async def accept(self, server: Server) -> Job:
        """The job, which is done from now on whatever happens."""
        jobs = server.jobs
        jobs.check_open()
        place = jobs.place(self.job.id)
        try:
            await asyncio.to_thread(_placed, place, self.job, self._uploads, server)
            await jobs.accept(self.job)
        except BaseException:
            await asyncio.to_thread(shutil.rmtree, place, ignore_errors=True)
            raise
        return self.job


async def separation(server: Server, form: Form, attached: bool) -> Asked:
    """Raises Problem or InputError for what cannot be done."""
    upload = _only(form)
    separator = server.separator
    known = tuple(separator.prompts)
    prompts = names(form.fields.get("prompts", ()), known)
    labels = separator.labels(prompts or None)
    stems = names(form.fields.get("stems", ()), (*labels, "residual")) or None
    keep, residual = choose(labels, flag(form, "residual"), stems)
    written = output_labels([labels[i] for i in keep], residual)
    kind = one_of((form.one("format") or "wav").lower(), "format", FORMATS)
    output = OutputFormat(kind, depth(form))
    found = await server.jobs.prober.probed(upload.path, upload.name, server.settings.max_audio_s)
    separator.engine.check_channels(found.channels)
    output.for_file(f"{written[0]}.{kind}", found.sample_rate, found.channels)
    per_second = len(written) * found.channels * found.sample_rate * BYTES[kind]
    needed = round(per_second * (UNKNOWN_S if found.seconds is None else found.seconds))
    await asyncio.to_thread(server.jobs.space.check, needed)
    asked = {
        "prompts": list(prompts), "stems": None if stems is None else list(stems), "residual": residual, "format": kind,
        "bit_depth": output.bit_depth, "media_type": MEDIA_TYPES[kind], "bytes_per_s": per_second,
        "banks": [f"prompt-{i}.safetensors" for i, _ in enumerate(_made(server, prompts))],
    }  # fmt: skip
    facts = {"name": upload.name, **asdict(found)}
    files = _files([upload], "input")
    job = Job(new_id(), "separation", asked, files, time.time(), facts, tuple(prompts), attached=attached)
    return Asked(job, written, [upload])


async def enrolment(server: Server, form: Form) -> Asked:
    """Raises Problem or InputError for what cannot be done."""
    separator, uploads, limits = server.separator, form.files.get("clips", []), server.settings
    name = _new_name(server, form.one("name") or "")
    if not separator.can_enroll:
        raise Problem(400, f"model {separator.info.name!r} makes no prompts of clips")
    if not uploads:
        raise Problem(400, "clips are missing: one file or more with the sound and little else")
    kind: Kind = "tune" if flag(form, "tune") else "enroll"
    minutes = form.one("minutes")
    asked: dict[str, Any] = {"name": name, "minutes": None}
    if minutes is not None:
        if kind == "enroll":
            raise Problem(400, "minutes are of tuning: give tune=true too, or leave them out")
        asked["minutes"] = number(_float(minutes), "minutes", 0.01, MOST_MINUTES)
    for upload in uploads:
        await server.jobs.prober.probed(upload.path, upload.name, limits.max_clip_s)
    job = Job(new_id(), kind, asked, _files(uploads, "clip"), time.time(), prompt=name)
    return Asked(job, (), uploads)


def _new_name(server: Server, name: str) -> str:
    bank = server.separator.prompts
    if name in bank and bank[name].kind == "class":
        raise Problem(409, f"{name!r} is a prompt of the model itself: choose another name")
    return bank.check_name(name)


def names(values: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Of values that each hold one name or, with commas between them, several."""
    found = list[str]()
    for value in values:
        parts = [value] if value in known else [part.strip() for part in value.split(",")]
        found += [part for part in parts if part]
    return tuple(found)


def flag(form: Form, name: str) -> bool:
    value = form.one(name)
    if value is None:
        return False
    if value.strip().lower() not in FLAGS:
        raise InputError(f"{name} must be true or false, not {value[:60]!r}")
    return FLAGS[value.strip().lower()]


def depth(form: Form) -> int | None:
    value = form.one("bit_depth")
    if value is None:
        return None
    if not (value.strip().isascii() and value.strip().isdigit()) or len(value) > 4:
        raise InputError(f"bit_depth must be 16, 24 or 32, not {value[:60]!r}")
    return int(value)


def _float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise InputError(f"minutes must be a number, not {text[:60]!r}") from None


def _only(form: Form) -> Upload:
    uploads = form.files.get("file", [])
    if not uploads:
        raise Problem(400, "file is missing: the audio to separate")
    return uploads[0]


def _files(uploads: Sequence[Upload], what: str) -> tuple[dict[str, Any], ...]:
    numbers = ("",) if what == "input" else tuple(f"-{i}" for i, _ in enumerate(uploads))
    return tuple(
        {"name": upload.name, "file": f"{what}{number}{upload.suffix}"}
        for number, upload in zip(numbers, uploads, strict=True)
    )


def _made(server: Server, prompts: Sequence[str]) -> list[str]:
    """Names of those among the prompts that callers made, each once."""
    bank = server.separator.prompts
    return [name for name in dict.fromkeys(prompts) if bank[name].kind != "class"]


def _placed(place: Path, job: Job, uploads: Sequence[Upload], server: Server) -> None:
    """Moves the files to where they stay, on disk before this returns; prompts stay as they are now, too."""
    place.mkdir(parents=True)
    for file, upload in zip(job.files, uploads, strict=True):
        os.replace(upload.path, place / file["file"])
        synced(place / file["file"])
    if job.kind == "separation":
        for number, name in enumerate(_made(server, job.prompts)):
            own = place / f"prompt-{number}.safetensors"
            try:
                os.link(server.library.path(name), own)
            except FileNotFoundError:
                raise Problem(409, f"prompt {name!r} was removed just now") from None
            except OSError:  # a file system without links
                shutil.copyfile(server.library.path(name), own)
    synced(place)
    synced(place.parent)
