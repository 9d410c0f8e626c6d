"""Recordings of which nothing is known but what they sound like: all files of a folder, or all rows of a manifest."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import soundfile

from ussfast.audio.reading import find_inputs
from ussfast.data.pool import Item, read_manifest
from ussfast.errors import InputError

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}
DEV_SHARE = 0.1  # of the files of a folder that does not say which are for validation
ENOUGH = 10  # files of which some can be held out


def read_mixtures(path: str | os.PathLike[str]) -> list[Item]:
    """Every row of a manifest, whatever its prompt, or every audio file below a folder.

    Of a folder, `train`, `dev` (or `valid`) and `test` may be the only subfolders; else, of `ENOUGH` files and more,
    some are for validation, chosen by hashes of their names.

    Raises:
        InputError: as `read_manifest`; nothing to train on.
        AudioError: a folder that cannot be read, or without audio.
    """
    given = Path(path)
    if os.path.isdir(given):
        places = find_inputs(given)
        tops = {place.parts[0].lower() if len(place.parts) > 1 else "" for _, place in places}
        if tops <= SPLITS.keys():
            items = [_item(file, given, SPLITS[place.parts[0].lower()]) for file, place in places]
        else:
            dev = _for_validation([place for _, place in places])
            items = [_item(file, given, "dev" if place in dev else "train") for file, place in places]
    else:
        items = read_manifest(given)
    if not any(item.split == "train" for item in items):
        raise InputError(f"{given}: there is nothing of the split train")
    return items


def _for_validation(places: Sequence[Path]) -> set[Path]:
    if len(places) < ENOUGH:
        return set()
    by_hash = sorted(places, key=lambda place: hashlib.sha256(os.fsencode(place)).digest())
    return set(by_hash[: max(2, round(DEV_SHARE * len(places)))])


def _item(file: Path, folder: Path, split: str) -> Item:
    try:
        about = soundfile.info(str(file))
        rate, seconds = about.samplerate, about.duration
    except (RuntimeError, OSError):  # what cannot be read so is told when it is decoded
        rate, seconds = 0, 0.0
    return Item(str(file), "", file.name, split, "unknown", rate, source=f"folder {folder.name}", seconds=seconds)
