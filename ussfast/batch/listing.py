"""Which files there are, group by group, so that a collection of any size need not be in memory at once."""

import glob
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, islice
from pathlib import Path, PurePosixPath
from typing import Any

from ussfast.audio import OutputFormat
from ussfast.audio.jobs import Job, told_apart
from ussfast.audio.naming import fields
from ussfast.audio.reading import files_under, is_audio
from ussfast.batch.manifests import rows_of
from ussfast.batch.places import Place, is_address, reason
from ussfast.batch.seen import Seen
from ussfast.errors import AudioError, InputError, UssfastError

GROUP = 1000  # of files that lie in no folder together

Tell = Callable[[str], Any]  # is given one line about changed names


@dataclass(frozen=True)
class Item:
    """A file to be separated.

    source: absolute path or address; after an error, what was asked for.
    folder: that its stems go under, below the output, with slashes; "" is the output itself.
    name: what {name} stands for.
    error, exit_code: why there is nothing to separate.
    """

    source: str
    folder: str
    name: str
    error: str | None = None
    exit_code: int = 0

    @classmethod
    def wrong(cls, source: str, error: UssfastError) -> "Item":
        return cls(source, "", "", str(error), error.exit_code)


Found = tuple[str, PurePosixPath]  # source, and the place in the tree of outputs


class Listing:
    """The files that are meant by paths, patterns, addresses and manifests, each with a place of its own for its stems.

    Args:
        inputs: files, folders (searched for audio), patterns with *, ?, [...] and **; local or addresses.
        manifests: files, or patterns of files, with a path or address in a line; see `manifests.rows_of`.
        output: the folder of all stems: what lies in there is no input.
        template, written: of the stems.
        tell: is given a line about inputs whose names would have been the same.
    """

    def __init__(
        self, inputs: Sequence[str], manifests: Sequence[str], output: Place, template: str, written: OutputFormat,
        tell: Tell = lambda line: None,
    ):  # fmt: skip
        self._inputs, self._manifests, self._output = inputs, manifests, output
        self._template, self._written, self._tell, self._fields = template, written, tell, fields(template)
        self._named = "name" in self._fields
        # Places in one tree differ between folders by themselves.
        self._seen = None if len(inputs) == 1 and not manifests else Seen()
        self._given = Seen()
        self._inside = os.path.join(os.path.realpath(output.path) if output.local else output.path.rstrip("/"), "")

    def __iter__(self) -> Iterator[list[Item]]:
        """Groups of items; what cannot be found is an item with an error."""
        for text in self._inputs:
            yield from self._guarded(text, self._under(text))
        for text in self._manifests:
            yield from self._guarded(text, self._listed(text))

    def _guarded(self, text: str, groups: Iterator[list[Found | Item]]) -> Iterator[list[Item]]:
        try:
            for group in groups:
                wrong = [one for one in group if isinstance(one, Item)]
                if items := self._placed([one for one in group if not isinstance(one, Item)]) + wrong:
                    yield items
        except UssfastError as error:
            yield [Item.wrong(text, error)]

    # Where files are

    def _under(self, text: str) -> Iterator[list[Found | Item]]:
        place = Place(text)
        path, magic = place.path, glob.has_magic(place.path) and not place.fs.exists(place.path)
        wanted: Callable[[str], bool] = lambda path: is_audio(Path(path))  # noqa: E731
        if magic:
            from fsspec.utils import glob_translate

            path, pattern = _fixed(path), re.compile(glob_translate(path))
            wanted = lambda path: pattern.match(path) is not None  # noqa: E731
        if place.local and not os.path.isdir(path) or not place.local and not place.fs.isdir(path):
            if magic:
                raise AudioError(f"{text}: no folder {place.within(path)} that it could match in")
            if not place.local and not place.fs.exists(path):
                raise AudioError(f"{text}: no such file")
            yield [(place.text, PurePosixPath(PurePosixPath(path).name))]
            return
        count = 0
        for group in (_local_groups if place.local else _groups)(place, path, wanted):
            group = [one for one in group if isinstance(one, Item) or not self._is_output(one[0])]
            count += len(group)
            if group:
                yield group
        if not count:
            what = "nothing matches" if magic else "no audio in this folder"
            raise AudioError(f"{text}: {what} besides what is in the output folder")

    def _listed(self, text: str) -> Iterator[list[Found | Item]]:
        rows = rows_of(text)

        def checked() -> Iterator[Found | Item]:
            for source, at in rows:
                if isinstance(at, UssfastError):
                    yield Item.wrong(source, at)
                elif self._is_output(source):
                    yield Item.wrong(source, InputError(f"{source}: lies in the output folder, where stems go"))
                else:
                    yield source, at

        listed = checked()
        while group := list(islice(listed, GROUP)):
            yield group

    def _is_output(self, source: str) -> bool:
        if is_address(source) == self._output.local:
            return False
        if not self._output.local:
            return Place(source).path.startswith(self._inside) and Place(source).fs == self._output.fs
        return _real(os.path.dirname(source)).startswith(self._inside)

    # Places of their own

    def _placed(self, found: list[Found]) -> list[Item]:
        fresh = [one for one in found if self._seen is None or self._given.add(f"{one[0]}\n{one[1]}")]
        names = [at.stem for _, at in fresh]
        if not self._named or len({(at.parent, name) for (_, at), name in zip(fresh, names, strict=True)}) < len(fresh):
            jobs = [Job(Path(at), self._directory(at), name) for (_, at), name in zip(fresh, names, strict=True)]
            jobs, note = told_apart(jobs, self._template, self._written)
            names = [job.name for job in jobs]
            if note:
                self._tell(note)
        items = []
        for (source, at), name in zip(fresh, names, strict=True):
            try:
                folder = _text(at.parent)
                items.append(Item(source, folder, self._free(folder, name, at.suffix)))
            except UssfastError as error:
                items.append(Item.wrong(source, InputError(f"{source}: {error}")))
        return items

    def _directory(self, at: PurePosixPath) -> Path:
        return Path(self._output.path) / at.parent if self._output.local else Path(at.parent)

    def _free(self, folder: str, name: str, suffix: str) -> str:
        """The name, or one with a number where another group has had it."""
        if self._seen is None:
            return name
        found, number = name, 1
        # Stems differ where names do; what their paths are in full takes a hundred times as long to tell.
        more = f"\n{suffix}" if "suffix" in self._fields else ""
        while not self._seen.add(f"{folder}\n{found if self._named else ''}{more}"):
            if not self._named:
                raise InputError("would write the same stems as another input: put {name} into the template")
            number += 1
            found = f"{name}-{number}"
        return found


@lru_cache(4096)
def _real(folder: str) -> str:
    """With a slash at the end."""
    return os.path.join(os.path.realpath(folder), "")


def _text(folder: PurePosixPath) -> str:
    return "" if str(folder) == "." else str(folder)


def _fixed(pattern: str) -> str:
    """The folder in front of the first part of a pattern that may vary."""
    parts = pattern.split("/")
    first = next(at for at, part in enumerate(parts) if glob.has_magic(part))
    return "/".join(parts[:first]) or "/"


def _local_groups(place: Place, folder: str, wanted: Callable[[str], bool]) -> Iterator[list[Found | Item]]:
    wrong: list[Item] = []
    files = files_under(
        Path(folder), lambda error: wrong.append(Item.wrong(folder, error)), lambda path: wanted(str(path))
    )
    for _, group in groupby(files, lambda file: file.parent):
        yield [(str(file), PurePosixPath(file.relative_to(folder))) for file in group]
    if wrong:
        yield [*wrong]


def _groups(place: Place, folder: str, wanted: Callable[[str], bool]) -> Iterator[list[Found | Item]]:
    try:
        for _, folders, files in place.fs.walk(folder, detail=True):
            for name in [name for name in folders if name.startswith(".")]:
                del folders[name]
            paths: Iterable[str] = sorted(facts["name"] for name, facts in files.items() if not name.startswith("."))
            if found := [path for path in paths if wanted(path)]:
                yield [(place.within(path), PurePosixPath(path).relative_to(folder)) for path in found]
    except UssfastError:
        raise
    except Exception as error:
        raise AudioError(f"{place.within(folder)}: the folder could not be read: {reason(error)}") from error
