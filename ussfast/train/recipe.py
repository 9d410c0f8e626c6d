"""Training recipes: frozen dataclasses read strictly from YAML."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from ussfast.errors import InputError
from ussfast.models import config_from_dict
from ussfast.models.config import from_dict
from ussfast.train.mix_config import MixConfig
from ussfast.train.recipe_file import recipe_file


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser, learning rate, clipping and averaging; lengths in optimiser steps.

    name: "adamw", or "muon": Muon for the matrices inside blocks, AdamW for everything else.
    schedule: linear warm-up over `warmup`, then "cosine" to 0 at the last step, or "wsd": constant, with a linear
        fall to 0 over the last share `decay` of the steps; such a run can be stretched as long as it is constant.
    clip: largest gradient norm; autoclip_percentile: takes this percentile of all norms so far instead.
    accumulate: batches whose gradients are averaged for one step.
    ema: decay of the running mean of the weights, which is what is validated and exported; 0 for the weights.
    """

    steps: int
    lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: int = 300
    clip: float = 5.0
    name: Literal["adamw", "muon"] = "adamw"
    schedule: Literal["cosine", "wsd"] = "cosine"
    decay: float = 0.2
    accumulate: int = 1
    ema: float = 0.999
    autoclip_percentile: float | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.accumulate < 1 or self.warmup < 0:
            raise InputError(f"optim needs steps and accumulate from 1 on, warmup from 0 on, got {self}")
        if self.lr < 0 or self.clip <= 0 or not 0 <= self.decay <= 1 or not 0 <= self.ema < 1:
            raise InputError(f"optim needs lr >= 0, clip > 0, decay in 0..1, ema in 0..1 (below 1), got {self}")
        if self.autoclip_percentile is not None and not 0 <= self.autoclip_percentile <= 100:
            raise InputError(f"optim.autoclip_percentile must lie in 0..100, got {self.autoclip_percentile}")


@dataclass(frozen=True)
class LossConfig:
    """snr_max: in dB, errors further below their reference hardly count. zero_weight: of silent references.

    silence: silent references are measured against the other references of their prompt ("group", as published) or
    against the whole mixture ("mixture": the loss ends snr_max dB below it, also where a prompt has no sound at all).
    high_weight: of the same sources' loss above high_hz alone, see `ussfast.train.high_band`; 0 for none.
    pairs_weight: of the contrast of example clips (`mix.pairs`), dB per nat, see `ussfast.train.contrast`.
    """

    snr_max: float = 30.0
    zero_weight: float = 0.1
    silence: Literal["group", "mixture"] = "group"
    high_weight: float = 0.0
    high_hz: float = 8000.0
    pairs_weight: float = 1.0

    def __post_init__(self) -> None:
        if min(self.high_weight, self.pairs_weight) < 0 or self.high_hz <= 0:
            raise InputError(f"need loss weights of at least 0 and loss.high_hz above 0, got {self}")


@dataclass(frozen=True)
class RunConfig:
    """Intervals in optimiser steps; validation uses `validate_items` mixtures per task of the dev split.

    precision: "bf16" runs the network's matrix products in bfloat16 (a model's own CPU kernels only where the CPU has
        such products); weights, levels, STFTs and loss stay float32.
    keep_best: validated weights that are kept, by highest mean; average: exports their mean if it validates better.
    tensorboard: also writes what is logged to tb/ in the run folder.
    """

    seed: int = 0
    log_every: int = 20
    validate_every: int = 500
    validate_items: int = 8
    checkpoint_every: int = 250
    compile: bool = False
    precision: Literal["fp32", "bf16"] = "fp32"
    keep_best: int = 5
    average: bool = True
    tensorboard: bool = True

    def __post_init__(self) -> None:
        if min(self.log_every, self.validate_every, self.validate_items, self.checkpoint_every, self.keep_best) < 1:
            raise InputError(f"run needs intervals, validate_items and keep_best from 1 on, got {self}")


@dataclass(frozen=True)
class Recipe:
    name: str
    model: Any
    optim: OptimConfig
    mix: MixConfig
    run: RunConfig
    loss: LossConfig = LossConfig()
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
        loss=from_dict(LossConfig, data.get("loss", {}), "loss"),
        license_classes=tuple(map(str, classes)),
    )


def load_recipe(source: str | Path) -> Recipe:
    """A recipe from a YAML file, or one that comes with the package, by name."""
    try:
        import yaml
    except ImportError:
        raise InputError("recipes need PyYAML: pip install 'ussfast[train]'") from None
    text = recipe_file(source).read_text()
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{source} is not valid YAML: {str(error).splitlines()[0]}") from None
    return recipe_from_dict(data)
