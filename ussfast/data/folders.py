"""What readers of users' folders share: items of files without a manifest, names of splits, what is for validation."""

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import soundfile

from ussfast.data.pool import Item

SPLITS = {"train": "train", "dev": "dev", "valid": "dev", "validation": "dev", "test": "test"}  # by folders' names


def item_of(
    file: Path, group: str, split: str, folder: str, *, prompt: str = "", song: str | None = None,
    label: str | None = None,
) -> Item:  # fmt: skip
    """An item of a file in the user's folder `folder`, of whose licence nothing is known; see `Item` for the rest."""
    try:
        about = soundfile.info(str(file))
        rate, seconds = about.samplerate, about.duration
    except (RuntimeError, OSError):  # what cannot be read so is told when it is decoded
        rate, seconds = 0, 0.0
    source = f"folder {folder}"
    return Item(str(file), prompt, group, split, "unknown", rate, song, source, seconds=seconds, label=label)


def for_validation(places: Sequence[Path], share: float, enough: int, least: int) -> set[Path]:
    """Some of `enough` or more places, `least` at least, by hashes of their names: the same in every run."""
    if len(places) < enough:
        return set()
    by_hash = sorted(places, key=lambda place: hashlib.sha256(os.fsencode(place)).digest())
    return set(by_hash[: max(least, round(share * len(places)))])
