"""Recordings of which nothing is known but what they sound like: all files of a folder, or all rows of a manifest."""

import os
from pathlib import Path

from ussfast.audio.reading import find_inputs
from ussfast.data.folders import SPLITS, for_validation, item_of
from ussfast.data.pool import Item, read_manifest
from ussfast.errors import InputError

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
            items = [item_of(file, file.name, SPLITS[place.parts[0].lower()], given.name) for file, place in places]
        else:
            dev = for_validation([place for _, place in places], DEV_SHARE, ENOUGH, 2)
            items = [item_of(file, file.name, "dev" if place in dev else "train", given.name) for file, place in places]
    else:
        items = read_manifest(given)
    if not any(item.split == "train" for item in items):
        raise InputError(f"{given}: there is nothing of the split train")
    return items
