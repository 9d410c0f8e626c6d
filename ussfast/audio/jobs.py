"""Which files are to be separated, and where their stems go: one folder tree like another, no two in the same place."""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ussfast.audio.formats import OutputFormat
from ussfast.audio.naming import fields, identity, stem_paths
from ussfast.audio.reading import find_inputs
from ussfast.errors import AudioError, InputError, UssfastError


@dataclass(frozen=True)
class Job:
    """One input, and the directory that its stems go under.

    name: what {name} stands for.
    error: why there is nothing to separate; `path` is then what was asked for.
    """

    path: Path
    directory: Path
    name: str
    error: UssfastError | None = None


def plan(
    inputs: Sequence[Path], output: Path, template: str, written: OutputFormat | None = None
) -> tuple[list[Job], str | None]:
    """The jobs for these files and folders; a folder's tree is repeated under `output`.

    Inputs that would write the same stems get names that differ.

    Returns:
        jobs, those that are an error from the beginning among them; what is to be told about changed names.
    Raises:
        AudioError: there is no audio besides what is in `output`.
        InputError: two inputs would write the same stems whatever they are called, or the files cannot be as `written`
            says.
    """
    jobs = _found(inputs, output)
    if not jobs:
        raise AudioError(f"{', '.join(map(str, inputs))}: no audio besides what is in the output directory")
    return told_apart(jobs, template, written)


def _found(inputs: Sequence[Path], output: Path) -> list[Job]:
    jobs: dict[tuple[Path, object], Job] = {}

    def wrong(path: Path, error: UssfastError) -> None:
        jobs[path, str(error)] = Job(path, output, path.stem, error)

    inside = os.path.join(os.path.realpath(output), "")
    for given in inputs:
        try:
            for path, place in find_inputs(given, partial(wrong, given)):
                # Stems of an earlier run, when the output lies in the input folder, are not inputs.
                if path == given or not os.path.realpath(path).startswith(inside):
                    jobs.setdefault((place, identity(path)), Job(path, output / place.parent, path.stem))
        except UssfastError as error:
            wrong(given, error)
    return list(jobs.values())


def told_apart(jobs: list[Job], template: str, written: OutputFormat | None) -> tuple[list[Job], str | None]:
    """Jobs with names that differ where stems would be the same files, and what is to be told about that."""

    def first(job: Job) -> Path:
        return stem_paths(job.directory, template, ("label",), job.name, written, job.path.suffix[1:])[0]

    groups: dict[Path, list[Job]] = {}
    for job in jobs:
        if job.error is None:
            groups.setdefault(first(job), []).append(job)
    crowded = [group for group in groups.values() if len(group) > 1]
    if not crowded:
        return jobs, None
    one, two = crowded[0][:2]
    if "name" not in fields(template):
        raise InputError(
            f"{one.path} and {two.path} would write the same stems: put {{name}} into the template, "
            "or separate them into different directories"
        )
    taken = {place for place, group in groups.items() if len(group) == 1}
    numbers, named = Counter[str](), dict[int, Job]()
    for group in crowded:
        suffixes = len({job.path.suffix for job in group}) > 1
        for job in group:
            base = f"{job.name}-{job.path.suffix[1:]}" if suffixes and job.path.suffix else job.name
            new = None
            while new is None or first(new) in taken:
                numbers[base] += 1
                new = replace(job, name=base if numbers[base] == 1 else f"{base}-{numbers[base]}")
            taken.add(first(new))
            named[id(job)] = new
    names = " and ".join(named[id(job)].name for job in (one, two))
    more = f"; {len(named) - 2} more inputs are told apart in the same way" if len(named) > 2 else ""
    note = f"{one.path} and {two.path} would write the same stems: {{name}} is {names} for them{more}"
    return [named.get(id(job), job) for job in jobs], note
