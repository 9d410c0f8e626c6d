"""What audio prompt tuning is measured on: classes of sounds, with clips to learn from and others to test on.

Data sets are read as they lie on the disk. Nothing here needs torch.
"""

import hashlib
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from ussfast.data.manifest import STEMS, read_rows
from ussfast.data.readers import read_table
from ussfast.errors import InputError
from ussfast.plain import Checked, Range
from ussfast.values import shown

FULL = "full"
METHODS = ("mean", "robust", "tuned", "joint")
TRAINING_FOLDS, TEST_FOLDS = ("1", "2", "3"), ("4", "5")  # of ESC-50, as in the paper
TRAINING_SPLIT, TEST_SPLIT = "tune", "dev"  # of manifests: no training uses the first
MOST_SHOTS = 1_000_000
EXPECTED = (
    "a manifest (.json), ESC-50 (meta/esc50.csv and audio/*.wav) or MUSDB18 as WAV files (train/SONG/ and test/SONG/ "
    "with vocals.wav, drums.wav, bass.wav and other.wav)"
)
Found = dict[str, tuple[list[Path], list[Path]]]  # clips to learn from, and to test on, by class


@dataclass(frozen=True)
class AptConfig(Checked):
    """mixtures: of each class; seconds: of each. backgrounds: what prompts are tuned against: as many training clips of
    each other class as of their own ("others", as published), or those that come with the package ("bundled"). steps:
    of tuning, at most; None for the default. seed: of all that is drawn."""

    mixtures: Annotated[int, Range(1, 10_000)] = 40
    seconds: Annotated[float, Range(2, 60)] = 5.0
    backgrounds: Literal["others", "bundled"] = "others"
    steps: Annotated[int, Range(1, 1e7)] | None = None
    seed: Annotated[int, Range(0, 1 << 31)] = 0

    @property
    def tuning(self) -> dict[str, Any]:
        """Settings of `Separator.tune`."""
        return {"seed": self.seed} | ({} if self.steps is None else {"steps": self.steps})


@dataclass(frozen=True)
class SoundClass:
    """A kind of sound. training, test: files, in the order of the data set; number: its place among all classes."""

    name: str
    number: int
    training: tuple[Path, ...]
    test: tuple[Path, ...]

    def order(self, seed: int) -> list[Path]:
        """The training clips, drawn: the first N of them are the N-shot set, so that each is in the next larger one."""
        drawn = np.random.default_rng((seed, self.key)).permutation(len(self.training))
        return [self.training[i] for i in drawn]

    @property
    def key(self) -> int:
        """A seed that does not depend on which other classes there are."""
        return zlib.crc32(self.name.encode())

    @property
    def file(self) -> str:
        """A name for its results, another one than that of every other class."""
        return f"{self.number:03d}-{re.sub(r'[^A-Za-z0-9_+-]+', '_', self.name)[:60]}.json"


@dataclass(frozen=True)
class DataSet:
    """kind: esc50, musdb18 or manifest. classes: those with clips of both sorts, by name; left_out: the others."""

    kind: str
    place: Path
    classes: tuple[SoundClass, ...]
    left_out: tuple[str, ...]

    @property
    def fingerprint(self) -> str:
        """Of names of classes and files, wherever the folder is."""
        root = self.place.parent if os.path.isfile(self.place) else self.place
        named = [
            [c.name, *([os.path.relpath(p, root) for p in clips] for clips in (c.training, c.test))]
            for c in self.classes
        ]
        return hashlib.sha256(json.dumps([self.kind, named]).encode()).hexdigest()

    def chosen(self, labels: Sequence[str] | None) -> tuple[SoundClass, ...]:
        """The classes of these names; all of them for None. InputError for names that are none of theirs."""
        if labels is None:
            return self.classes
        known = {c.name: c for c in self.classes}
        for label in labels:
            if label in self.left_out:
                raise InputError(f"{self.place}: class {label!r} has no clips to learn from, or none to test on")
            if label not in known:
                some = ", ".join(list(known)[:12]) + (", ..." if len(known) > 12 else "")
                raise InputError(f"{self.place}: no class {label!r}; there are {some}")
        return tuple(c for c in self.classes if c.name in labels)


def read_cases(place: Path) -> DataSet:
    """A data set in one of the EXPECTED layouts.

    ESC-50: folds 1 to 3 to learn from, 4 and 5 to test on. MUSDB18: the four stems of each song. A manifest: its sound
    effects by label, split `tune` to learn from and `dev` to test on.

    Raises:
        InputError: it is none of them, files of it are missing, or fewer than two classes have clips of both sorts.
    """
    kind, found = _read(place)
    both = sorted(name for name, (training, test) in found.items() if training and test)
    if len(both) < 2:
        lack = sorted(found.keys() - set(both))
        named = f": {lack[0]!r} has none to learn from, or none to test on" if lack else ""
        raise InputError(f"{place}: mixtures need two classes or more with clips of both sorts, got {len(both)}{named}")
    if missing := next((p for name in both for some in found[name] for p in some if not os.path.isfile(p)), None):
        raise InputError(f"{missing}: no such file, though {place} has it")
    classes = tuple(SoundClass(name, i, *map(tuple, found[name])) for i, name in enumerate(both))
    return DataSet(kind, place, classes, tuple(sorted(found.keys() - set(both))))


def _read(place: Path) -> tuple[str, Found]:
    if os.path.isfile(place):
        return "manifest", _manifest(place)
    if not os.path.isdir(place):
        raise InputError(f"{place}: no such file or folder; expected is {EXPECTED}")
    if (place / "meta" / "esc50.csv").is_file():
        return "esc50", _esc50(place)
    if found := _musdb18(place):
        return "musdb18", found
    if any(place.glob("*/*.stem.mp4")):
        raise InputError(
            f"{place}: has .stem.mp4 files: decode them first (or take MUSDB18-HQ), into train/SONG/ and test/SONG/ "
            "with vocals.wav, drums.wav, bass.wav and other.wav"
        )
    if (place / "manifest.json").is_file():
        return "manifest", _manifest(place / "manifest.json")
    raise InputError(f"{place}: not a data set that is known here; expected is {EXPECTED}")


def _gathered(clips: Iterable[tuple[str, Path, bool]]) -> Found:
    """Of (class, file, whether it is to learn from)."""
    found: Found = {}
    for name, path, training in clips:
        found.setdefault(name, ([], []))[0 if training else 1].append(path)
    return found


def _esc50(folder: Path) -> Found:
    table = folder / "meta" / "esc50.csv"

    def clips() -> Iterator[tuple[str, Path, bool]]:
        for row in read_table(table, ["filename", "fold", "category"]):
            if row["fold"] not in TRAINING_FOLDS + TEST_FOLDS or not row["filename"] or not row["category"]:
                raise InputError(f"{table}: each row needs a filename, a category and a fold from 1 to 5, got {row}")
            yield row["category"], folder / "audio" / row["filename"], row["fold"] in TRAINING_FOLDS

    return _gathered(clips())


def _musdb18(folder: Path) -> Found:
    songs = [(part == "train", song) for part in ("train", "test") for song in sorted(folder.glob(f"{part}/*/"))]
    whole = [(t, song) for t, song in songs if any((song / f"{stem}.wav").is_file() for stem in STEMS)]
    return _gathered((stem, song / f"{stem}.wav", training) for training, song in whole for stem in STEMS)


def _manifest(path: Path) -> Found:
    splits = TRAINING_SPLIT, TEST_SPLIT
    rows = [r for r in read_rows(path) if r["prompt"] == "sfx" and r.get("label") is not None and r["split"] in splits]
    named = {row["label"] for row in rows if row["split"] == TRAINING_SPLIT}
    if not named:
        raise InputError(f"{path}: no sound effects (prompt 'sfx') of the split {TRAINING_SPLIT!r} to learn from")
    return _gathered(
        (str(row["label"]), path.parent / row["path"], row["split"] == TRAINING_SPLIT)
        for row in rows if row["label"] in named
    )  # fmt: skip


def listed(text: str) -> list[str]:
    """Of words with commas between them, each once."""
    return list(dict.fromkeys(word.strip() for word in text.split(",")))


def shots_of(text: str) -> tuple[str, ...]:
    """Numbers of clips, the smallest first, and FULL for all there are; InputError for what is none."""
    words = listed(text)
    for word in words:
        number = word.isascii() and word.isdecimal() and len(word) <= 9
        if word != FULL and not (number and 1 <= int(word) <= MOST_SHOTS):
            raise InputError(
                f"shots are whole numbers from 1 to {MOST_SHOTS}, or {FULL!r}, such as 1,5,{FULL}; got {shown(word)}"
            )
    numbers = sorted({int(word) for word in words if word != FULL})
    return (*map(str, numbers), *([FULL] if FULL in words else []))


def methods_of(text: str) -> tuple[str, ...]:
    """Names of methods, in the order of METHODS; InputError for others."""
    words = listed(text)
    unknown = next((word for word in words if word not in METHODS), None)
    if unknown is not None:
        raise InputError(f"unknown method {shown(unknown)}; there are {', '.join(METHODS)}")
    return tuple(method for method in METHODS if method in words)


def number_of(shots: str) -> int:
    """How many clips at most."""
    return MOST_SHOTS if shots == FULL else int(shots)
