"""Training recipes of all kinds whose entries have been changed."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.trees import changed_tree
from ussfast.models import architecture_of
from ussfast.train.clip_recipes import detector_from_dict, weak_from_dict
from ussfast.train.recipe import read_recipe, recipe_from_dict
from ussfast.train.transfer_recipe import transfer_from_dict

SECONDS, MIB = 5.0, 128
KINDS: dict[str, Callable[[Any], Any]] = {
    "default": recipe_from_dict, "detector": detector_from_dict, "weak": weak_from_dict, "transfer": transfer_from_dict
}  # fmt: skip


def prepare(folder: Path) -> dict[str, Any]:
    return {name: read_recipe(name) for name in KINDS}


def one(recipes: dict[str, Any], rng: random.Random, folder: Path) -> None:
    name = rng.choice(list(KINDS))
    read = KINDS[name if rng.random() < 0.9 else rng.choice(list(KINDS))]
    recipe = read(changed_tree(copy.deepcopy(recipes[name]), rng))
    assert recipe.optim.steps >= 1 and architecture_of(recipe.model)
    if name == "transfer":
        assert recipe.stems.stretch[0] <= recipe.stems.stretch[1]
    elif name != "default":
        names = [rule.name for rule in recipe.labels]
        assert len(set(names)) == len(names)
    if name == "detector" and recipe.labels:
        assert recipe.knowing(recipe.labels).model.labels == tuple(names)
    if name == "weak":
        assert not set(recipe.trained(recipe.labels)) & set(recipe.held_out)
