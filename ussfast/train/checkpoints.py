"""Training checkpoints: what is in them; where and how they lie is `folders`'."""

import dataclasses
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.errors import CheckpointError, InputError
from ussfast.models import architecture_of, config_from_dict
from ussfast.train.folders import Damaged, Say, folders, is_number, is_ours, name_of, read, remove, write
from ussfast.train.low_rank import merged
from ussfast.train.recipe import RunRecipe

KEEP = 2


def _model_facts(recipe: RunRecipe) -> dict[str, Any]:
    """What identifies the model of a recipe, as JSON returns it."""
    return json.loads(json.dumps(dataclasses.asdict(recipe.model)))


def _head(recipe: RunRecipe) -> dict[str, Any]:
    return {"recipe": recipe.name, "architecture": architecture_of(recipe.model), "model": _model_facts(recipe)}


def save_weights(folder: Path, recipe: RunRecipe, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Weights alone, with the facts of the step they are from."""
    write(folder, weights, _head(recipe) | {"facts": facts})


def save_best(
    directory: Path, recipe: RunRecipe, weights: dict[str, Tensor], facts: dict[str, Any], kept: list[tuple[int, float]]
) -> list[tuple[int, float]]:
    """Keeps validated weights as best-NNNNNNN if they are among the best so far.

    Args:
        weights, facts: of the step, with "step" and "mean", the mean of its validation (higher is better).
        kept: (step, mean) of the ones before, best first.
    Returns:
        `kept` with the step, cut to `run.keep_best`; folders of others are removed.
    """
    step, mean = facts["step"], facts["mean"]
    others = [pair for pair in kept if pair[0] != step]
    # Of equals, the later one: it has seen more.
    best = sorted([*others, (step, mean)], key=lambda pair: (-pair[1], -pair[0]))[: recipe.run.keep_best]
    if (step, mean) in best:
        save_weights(directory / name_of("best", step), recipe, weights, facts)
    remove(folders(directory, "best"), {step for step, _ in best})
    return best


def best(directory: Path, say: Say = lambda line: None) -> list[Path]:
    """Folders of validated weights, the best first; `say` gets a line for each that cannot be read."""
    scored = []
    for folder in [directory / "best", *folders(directory, "best").values()]:  # earlier versions kept one, named best
        if folder.is_dir():
            try:
                facts = read(folder)[1]["facts"]
                mean = facts.get("mean", facts.get("best"))
                if not is_number(mean):
                    raise Damaged(f"{folder} is not a checkpoint of validated weights: it has no mean of a validation")
            except Damaged as error:
                say(f"{error}; it is left out")
                continue
            scored.append((mean, facts["step"], folder))
    return [folder for _, _, folder in sorted(scored, reverse=True)]


def save(
    directory: Path,
    recipe: RunRecipe,
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
    facts: dict[str, Any],
    extra: dict[str, Tensor],
    passed_over: Collection[Path] = (),
) -> Path:
    """A full checkpoint under `directory`; the newest two are kept.

    Args:
        extra: has names with a point, such as ema.x.
        passed_over: checkpoints that could not be read: they do not count, and stay, for they may be mended.
    """
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()} | extra
    scalars: dict[str, Any] = {}
    for index, moments in optimizer["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    scalars["param_groups"] = optimizer["param_groups"]
    folder = directory / name_of("step", facts["step"])
    write(folder, tensors, _head(recipe) | {"facts": facts, "optimizer": scalars})
    found = {step: path for step, path in folders(directory, "step").items() if path not in passed_over}
    before = [step for step, path in found.items() if step <= facts["step"] and is_ours(path)]
    remove({step: found[step] for step in before[:-KEEP]})
    return folder


def shrink(source: Path, folder: Path) -> None:
    """Writes the full checkpoint `source` as `folder` in half the bytes, for where every byte counts.

    A run goes on from it, but not bit for bit: weights and their mean are rounded to float16, moments to bfloat16,
    whose range squares of small gradients need.

    Raises:
        CheckpointError: `source` holds weights alone, or is damaged.
    """
    tensors, state = read(source)
    if "optimizer" not in state:
        raise CheckpointError(f"{source} is not a full checkpoint: no run can go on from it")
    dtypes = {"model": torch.float16, "ema": torch.float16, "optimizer": torch.bfloat16}
    for name, tensor in tensors.items():
        dtype = dtypes.get(name.partition(".")[0])
        if dtype is not None and tensor.dtype == torch.float32 and tensor.numel() > 1:
            tensors[name] = tensor.to(dtype)
    write(folder, tensors, state)


def full(directory: Path) -> list[Path]:
    """Full checkpoints of a run, the newest first."""
    return list(folders(directory, "step").values())[::-1]


def newest(directory: Path) -> Path | None:
    found = full(directory)
    return found[0] if found else None


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What `save` was given."""

    weights: dict[str, Tensor]
    optimizer: dict[str, Any]
    facts: dict[str, Any]
    extra: dict[str, Tensor]

    def extras(self, prefix: str) -> dict[str, Tensor]:
        """The extra tensors of a prefix, by the rest of their names; none in checkpoints from before they existed."""
        return {k.removeprefix(prefix): v for k, v in self.extra.items() if k.startswith(prefix)}


def load(folder: Path, recipe: RunRecipe) -> Checkpoint:
    """A full checkpoint; Damaged if it is none, another CheckpointError when the recipe's model is another one."""
    tensors, state = read(folder)
    if state["model"] != _model_facts(recipe):
        raise CheckpointError(f"{folder} was trained with another model configuration than recipe {recipe.name}")
    weights: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    try:
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "model":
                weights[rest] = value
            elif kind == "optimizer":
                index, name = rest.split(".")
                moments.setdefault(int(index), {})[name] = value
            else:
                extra[key] = value
        optimizer, facts = {"state": moments, **state["optimizer"]}, state["facts"]
        if not isinstance(optimizer["param_groups"], list) or not {"seconds", "rng"} <= facts.keys():
            raise ValueError
        if folder.name.startswith("step-") and folder.name != name_of("step", facts["step"]):
            raise ValueError
    except (KeyError, ValueError, TypeError):
        raise Damaged(f"{folder} is not a full training checkpoint: no run can go on from it") from None
    return Checkpoint(weights, optimizer, facts, extra)


def load_weights(folder: Path, mean: bool = True) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Model configuration, weights and facts of a weights-only or a full checkpoint; low-rank additions are in the
    weights.

    mean: of a full one, the running mean of the weights, or else those of its last step.
    """
    tensors, state = read(folder)
    weights = tensors
    try:
        config = config_from_dict(state["architecture"], state["model"])
    except InputError as error:
        raise Damaged(f"{folder} is not a training checkpoint: {error}") from None
    if "optimizer" in state:
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        if mean:
            weights |= {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    try:
        return config, merged(weights), state["facts"]
    except (KeyError, RuntimeError):
        raise Damaged(f"{folder}: its weights are not those of its model") from None
