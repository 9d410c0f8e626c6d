"""Training recipes: frozen dataclasses read strictly from YAML."""

from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from ussfast.errors import InputError
from ussfast.models import config_from_dict
from ussfast.models.config import from_dict
from ussfast.train.mixing import MixConfig


@dataclass(frozen=True)
class OptimConfig:
    """AdamW with linear warm-up and a cosine decay to zero over `steps`."""

    steps: int
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 300
    clip: float = 5.0


@dataclass(frozen=True)
class RunConfig:
    """Intervals in optimiser steps; validation uses `validate_items` mixtures per task of the dev split."""

    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    validate_items: int = 8
    checkpoint_every: int = 250
    compile: bool = False


@dataclass(frozen=True)
class Recipe:
    name: str
    model: Any
    optim: OptimConfig
    mix: MixConfig
    run: RunConfig
    license_classes: tuple[str, ...] = ("permissive", "attribution", "free-use")


def recipe_from_dict(data: dict[str, Any]) -> Recipe:
    """A recipe from its plain form; errors name unknown, missing and ill-typed entries."""
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or "architecture" not in model:
        raise InputError("a recipe needs a table 'model' with an entry 'architecture'")
    if unknown := sorted(map(str, data.keys() - {field.name for field in fields(Recipe)})):
        raise InputError(f"unknown entries in the recipe: {', '.join(unknown)}")
    classes = data.get("license_classes", list(Recipe.license_classes))
    if not isinstance(classes, list):
        raise InputError(f"license_classes must be a list, got {classes!r}")
    settings = {k: v for k, v in model.items() if k != "architecture"}
    config = config_from_dict(model["architecture"], settings)
    return Recipe(
        name=str(data.get("name", "unnamed")),
        model=config,
        optim=from_dict(OptimConfig, data.get("optim", {}), "optim"),
        mix=from_dict(MixConfig, data.get("mix", {}), "mix"),
        run=from_dict(RunConfig, data.get("run", {}), "run"),
        license_classes=tuple(map(str, classes)),
    )


def load_recipe(source: str | Path) -> Recipe:
    """A recipe from a YAML file, or one that comes with the package, by name."""
    try:
        import yaml
    except ImportError:
        raise InputError("recipes need PyYAML: pip install 'ussfast[train]'") from None
    path = Path(source)
    bundled = resources.files("ussfast.train") / "recipes" / f"{source}.yaml"
    if not path.is_file() and not bundled.is_file():
        raise InputError(f"no recipe {source}: give a YAML file or the name of a bundled one ('default')")
    text = path.read_text() if path.is_file() else bundled.read_text()
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {str(error).splitlines()[0]}") from None
    return recipe_from_dict(data)
