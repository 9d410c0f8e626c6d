"""Where a training recipe lies. Nothing here needs torch."""

from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from ussfast.errors import InputError


def recipe_file(source: str | Path) -> Traversable:
    """A recipe's YAML file, or one that comes with the package, by name; InputError where there is none."""
    path = Path(source)
    folder = resources.files("ussfast.train") / "recipes"
    bundled = folder / f"{source}.yaml"
    if path.is_file():
        return path
    if not bundled.is_file():
        names = sorted(Path(str(f)).stem for f in folder.iterdir() if str(f).endswith(".yaml"))
        raise InputError(f"no recipe {source}: give a YAML file or the name of a bundled one ({', '.join(names)})")
    return bundled
