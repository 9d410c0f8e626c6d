"""Training recipes: frozen dataclasses read strictly from YAML."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from ussfast.errors import InputError
from ussfast.models import config_from_dict
from ussfast.plain import Checked, Name, Range, Share, convert, from_dict, read_yaml
from ussfast.train.mix_config import MixConfig
from ussfast.train.recipe_file import recipe_file

Count = Annotated[int, Range(1, 1e12)]
Weight = Annotated[float, Range(0, 1e6)]


@dataclass(frozen=True)
class OptimConfig(Checked):
    """Optimiser, learning rate, clipping and averaging; lengths in optimiser steps.

    name: "adamw", or "muon": Muon for the matrices inside blocks, AdamW for everything else.
    schedule: linear warm-up over `warmup`, then "cosine" to 0 at the last step, or "wsd": constant, with a linear
        fall to 0 over the last share `decay` of the steps; such a run can be stretched as long as it is constant; or
        "plateau": constant, and halved whenever the mean loss over `plateau_window` steps has had no new minimum for
        `plateau_patience` steps.
    clip: largest gradient norm; autoclip_percentile: takes this percentile of all norms so far instead.
    accumulate: batches whose gradients are averaged for one step.
    ema: decay of the running mean of the weights, which is what is validated and exported; 0 for the weights.
    """

    steps: Count
    lr: Annotated[float, Range(0, 1e3)] = 1e-3
    weight_decay: Annotated[float, Range(0, 1e3)] = 0.01
    warmup: Annotated[int, Range(0, 1e12)] = 300
    clip: Annotated[float, Range(1e-12, 1e12)] = 5.0
    name: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["cosine", "wsd", "plateau"] = "cosine"
    decay: Share = 0.2
    plateau_window: Annotated[int, Range(1, 1e6)] = 100
    plateau_patience: Count = 500
    accumulate: Count = 1
    ema: Annotated[float, Range(0, 1 - 1e-9)] = 0.999
    autoclip_percentile: Annotated[float, Range(0, 100)] | None = None


@dataclass(frozen=True)
class LossConfig(Checked):
    """snr_max: in dB, errors further below their reference hardly count. zero_weight: of silent references.

    silence: silent references are measured against the other references of their prompt ("group", as published) or
    against the whole mixture ("mixture": the loss ends snr_max dB below it, also where a prompt has no sound at all).
    high_weight: of the same sources' loss above high_hz alone, see `ussfast.train.high_band`; 0 for none.
    pairs_weight: of the contrast of example clips (`mix.pairs`), dB per nat, see `ussfast.train.contrast`.
    """

    snr_max: Annotated[float, Range(-200, 200)] = 30.0
    zero_weight: Weight = 0.1
    silence: Literal["group", "mixture"] = "group"
    high_weight: Weight = 0.0
    high_hz: Annotated[float, Range(1, 1e6)] = 8000.0
    pairs_weight: Weight = 1.0


@dataclass(frozen=True)
class RunConfig(Checked):
    """Intervals in optimiser steps; validation uses `validate_items` mixtures per task of the dev split.

    precision: "bf16" runs the network's matrix products in bfloat16 (a model's own CPU kernels only where the CPU has
        such products); weights, levels, STFTs and loss stay float32.
    keep_best: validated weights that are kept, by highest mean; average: exports their mean if it validates better.
    tensorboard: also writes what is logged to tb/ in the run folder.
    """

    seed: Annotated[int, Range(0, 1 << 62)] = 0
    log_every: Count = 20
    validate_every: Count = 500
    validate_items: Count = 8
    checkpoint_every: Count = 250
    compile: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    keep_best: Count = 5
    average: bool = True
    tensorboard: bool = True


@dataclass(frozen=True, kw_only=True)
class RunRecipe:
    """What recipes of every kind have; the kind is the class."""

    name: str
    model: Any
    optim: OptimConfig
    run: RunConfig
    license_classes: tuple[str, ...] = ("permissive", "attribution", "free-use")


@dataclass(frozen=True, kw_only=True)
class Recipe(RunRecipe):
    """Of a model that separates by the manifest's prompts."""

    mix: MixConfig
    loss: LossConfig = LossConfig()


COMMANDS = {  # by kinds of recipes
    "separation": "train",
    "detector": "train detector",
    "weak": "train weak",
    "transfer": "train transfer",
}
Plain = dict[str, Any]


def common(data: Any, cls: type[RunRecipe], kind: str, **more: Any) -> dict[str, Any]:
    """The fields of RunRecipe from a recipe's plain form.

    Args:
        data: of the recipe. cls: the class that the recipe is to become.
        kind: what its entry `kind` must say; one without it is of kind "separation".
        more: settings of the model that do not stand in the recipe.
    Raises:
        InputError: a recipe of another kind, without a model, or with entries that `cls` does not have.
    """
    model = data.get("model") if isinstance(data, dict) else None
    if not isinstance(model, dict) or "architecture" not in model:
        raise InputError("a recipe needs a table 'model' with an entry 'architecture'")
    own = convert(Literal[tuple(COMMANDS)], data.get("kind", "separation"), "kind")
    if own != kind:
        raise InputError(f"the recipe is of kind {own!r}: it is for 'ussfast {COMMANDS[own]}'")
    if unknown := sorted(map(str, data.keys() - {"kind", *(field.name for field in fields(cls))})):
        raise InputError(f"unknown entries in the recipe: {', '.join(unknown)}")
    settings = {k: v for k, v in model.items() if k != "architecture"} | more
    return {
        "name": convert(Name, str(data.get("name", "unnamed")), "name"),
        "model": config_from_dict(model["architecture"], settings),
        "optim": from_dict(OptimConfig, data.get("optim", {}), "optim"),
        "run": from_dict(RunConfig, data.get("run", {}), "run"),
        "license_classes": convert(
            tuple[Name, ...], data.get("license_classes", RunRecipe.license_classes), "license_classes"
        ),
    }


def recipe_from_dict(data: Plain) -> Recipe:
    """A recipe from its plain form; errors name unknown, missing and ill-typed entries."""
    return Recipe(
        **common(data, Recipe, "separation"),
        mix=from_dict(MixConfig, data.get("mix", {}), "mix"),
        loss=from_dict(LossConfig, data.get("loss", {}), "loss"),
    )


def load_recipe(source: str | Path) -> Recipe:
    """A recipe from a YAML file, or one that comes with the package, by name."""
    return recipe_from_dict(read_recipe(source))


def read_recipe(source: str | Path) -> Plain:
    """The plain form of a recipe of any kind."""
    file = recipe_file(source)
    try:
        data = read_yaml(file)
    except ImportError:
        raise InputError("recipes need PyYAML: pip install 'ussfast[train]'") from None
    except InputError as error:
        raise InputError(f"{source} is not a recipe: {error}") from None
    return data
