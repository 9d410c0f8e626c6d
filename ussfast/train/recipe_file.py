"""Where a training recipe lies. Nothing here needs torch."""

import os
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ussfast.errors import InputError


def recipe_file(source: str | Path) -> Traversable:
    """A recipe's YAML file, or one that comes with the package, by name; InputError where there is none."""
    path = Path(source)
    folder = resources.files("ussfast.train") / "recipes"
    if os.path.isfile(path):
        return path
    names = sorted(Path(str(f)).stem for f in folder.iterdir() if str(f).endswith(".yaml"))
    if str(source) not in names:
        raise InputError(f"no recipe {source}: give a YAML file or the name of a bundled one ({', '.join(names)})")
    return folder / f"{source}.yaml"
