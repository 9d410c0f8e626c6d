"""What readers find, and how it becomes rows of a manifest: headers are read in threads, bad files are listed."""

import csv
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import soundfile
from tqdm import tqdm

from ussfast.data.manifest import Row, placed
from ussfast.errors import InputError

THREADS = 8  # opening files waits for the disk more than for the CPU


@dataclass(frozen=True)
class Clip:
    """One audio file of a data set, before its header is read.

    prompt: or a function from the duration in seconds to one, with None for "not to be used".
    source, license: whom to credit and under what licence, as the publisher states it.
    group: recordings of one session or original; aligned: the other stems of the song.
    """

    path: Path
    prompt: str | Callable[[float], str | None]
    split: str
    source: str
    license: str
    license_class: str
    label: str | None = None
    speaker: str | None = None
    song: str | None = None
    fold: int | None = None
    group: str | None = None
    real: bool = True
    aligned: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Problem:
    """A file that could not be used, and why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Reader:
    """How one data set lies on the disk.

    expects: what its folder holds, as an error tells it.
    find: (folder, folder for audio that has to be extracted first) -> what there is; nothing at all if the folder is
        not this data set.
    """

    name: str
    title: str
    expects: str
    find: Callable[[Path, Path], Iterator[Clip | Problem]]


@dataclass
class Scan:
    """rows of the manifest; files with problems; how many clips have no prompt that fits them."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused: int = 0


def scan(reader: Reader, folder: Path, output: Path) -> Scan:
    """The rows that a manifest at `output` has for the data set in `folder`.

    Raises:
        InputError: no such folder, not this data set, or nothing in it that can be used.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    found = list(reader.find(folder, output.parent / f"{output.stem}-audio"))
    if not found:
        raise InputError(f"{folder} is not {reader.title}: expected in it are {reader.expects}")
    clips = [entry for entry in found if isinstance(entry, Clip)]
    result = Scan(problems=[entry for entry in found if isinstance(entry, Problem)])
    usable: list[tuple[Clip, Row]] = []
    with ThreadPoolExecutor(THREADS) as threads:
        headers = threads.map(_header, [clip.path for clip in clips])
        for clip, header in zip(tqdm(clips, "reading headers", disable=None), headers, strict=True):
            if isinstance(header, str):
                result.problems.append(Problem(clip.path, header))
                continue
            prompt = clip.prompt if isinstance(clip.prompt, str) else clip.prompt(header[0])
            if prompt is None:
                result.unused += 1
            else:
                usable.append((clip, _row(clip, prompt, *header, output.parent)))
    paths = {clip.path for clip, _ in usable}
    for clip, row in usable:
        if aligned := [placed(path, output.parent) for path in clip.aligned if path in paths]:
            row["aligned_with"] = aligned
    result.rows = [row for _, row in usable]
    if not result.rows:
        why = f": {result.problems[0].path}: {result.problems[0].reason}" if result.problems else ""
        raise InputError(f"{folder}: none of the {len(found)} clips of {reader.title} can be used{why}")
    return result


def _row(clip: Clip, prompt: str, seconds: float, rate: int, folder: Path) -> Row:
    row: Row = {"path": placed(clip.path, folder), "prompt": prompt, "label": clip.label}
    row |= {"source": clip.source, "license": clip.license, "license_class": clip.license_class, "split": clip.split}
    row |= {"seconds": round(seconds, 3), "sample_rate": rate, "real": clip.real}
    row |= {"speaker": clip.speaker, "song": clip.song, "fold": clip.fold, "group": clip.group}
    return {key: value for key, value in row.items() if value is not None}


def _header(path: Path) -> tuple[float, int] | str:
    """(seconds, sample rate in Hz), or what is wrong with the file."""
    try:
        if path.stat().st_size == 0:
            return "empty file (0 bytes)"
        info = soundfile.info(str(path))
    except FileNotFoundError:
        return "no such file"
    except (soundfile.SoundFileError, OSError) as error:
        return str(getattr(error, "error_string", None) or error).strip().rstrip(".")
    return (info.frames / info.samplerate, info.samplerate) if info.frames else "no audio in it (0 samples)"


def read_table(path: Path, columns: Iterable[str]) -> list[dict[str, str]]:
    """Rows of a CSV file with a header line. Raises InputError if it is none, or one of `columns` is missing."""
    try:
        with open(path, newline="", encoding="utf-8") as file:
            table = csv.DictReader(file)
            rows = list(table)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: could not be read as CSV: {error}") from None
    if missing := [name for name in columns if name not in (table.fieldnames or ())]:
        raise InputError(f"{path}: no column {', '.join(missing)}; it has {', '.join(table.fieldnames or ['none'])}")
    return rows
