"""Training checkpoints: folders of safetensors shards below 16 MiB with a state.json, complete or absent."""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ussfast.atomic import write_failure
from ussfast.errors import CheckpointError
from ussfast.models import architecture_of, config_from_dict
from ussfast.train.recipe import Recipe

SHARD_BYTES = 15 * 1024 * 1024
KEEP = 2


def _model_facts(recipe: Recipe) -> dict[str, Any]:
    """What identifies the model of a recipe, as JSON returns it."""
    return json.loads(json.dumps(dataclasses.asdict(recipe.model)))


def _head(recipe: Recipe) -> dict[str, Any]:
    return {"recipe": recipe.name, "architecture": architecture_of(recipe.model), "model": _model_facts(recipe)}


def _write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes beside `folder`, then renames: a folder of that name is always complete."""
    fresh = folder.with_name(f".{folder.name}.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        _fill(fresh, tensors, state)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise write_failure(folder, error) from error
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.rename(folder, old)
    os.rename(fresh, folder)
    shutil.rmtree(old, ignore_errors=True)


def _fill(fresh: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        if size + tensor.nbytes > SHARD_BYTES and shards[-1]:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    for number, shard in enumerate(shards):
        save_file(shard, fresh / f"shard-{number:03d}.safetensors")
    (fresh / "state.json").write_text(json.dumps(state | {"shards": len(shards)}, indent=1))


def _read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        state = json.loads((folder / "state.json").read_text())
        tensors: dict[str, Tensor] = {}
        for number in range(state["shards"]):
            tensors |= load_file(folder / f"shard-{number:03d}.safetensors")
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder} is not a training checkpoint: {error}") from None
    return tensors, state


def save_weights(folder: Path, recipe: Recipe, weights: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Weights alone, with the facts of the step they are from."""
    _write(folder, weights, _head(recipe) | {"facts": facts})


def save(
    directory: Path, recipe: Recipe, weights: dict[str, Tensor], optimizer: dict[str, Any], facts: dict[str, Any]
) -> Path:
    """A full checkpoint under `directory`; the newest two are kept."""
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
    scalars: dict[str, Any] = {}
    for index, moments in optimizer["state"].items():
        for name, value in moments.items():
            tensors[f"optimizer.{index}.{name}"] = torch.as_tensor(value)
    scalars["param_groups"] = optimizer["param_groups"]
    folder = directory / f"step-{facts['step']:07d}"
    _write(folder, tensors, _head(recipe) | {"facts": facts, "optimizer": scalars})
    for old in sorted(directory.glob("step-*"))[:-KEEP]:
        shutil.rmtree(old)
    return folder


def newest(directory: Path) -> Path | None:
    found = sorted(directory.glob("step-*"))
    return found[-1] if found else None


def load(folder: Path, recipe: Recipe) -> tuple[dict[str, Tensor], dict[str, Any], dict[str, Any]]:
    """Weights, optimiser state and facts; CheckpointError when the recipe's model is another one."""
    tensors, state = _read(folder)
    if state["model"] != _model_facts(recipe):
        raise CheckpointError(f"{folder} was trained with another model configuration than recipe {recipe.name}")
    weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            moments.setdefault(int(index), {})[name] = value
    return weights, {"state": moments, **state["optimizer"]}, state["facts"]


def load_weights(folder: Path) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Model configuration, weights and facts of a full or weights-only checkpoint."""
    tensors, state = _read(folder)
    own = {k: v for k, v in tensors.items() if not k.startswith("optimizer.")}
    weights = {k.removeprefix("model."): v for k, v in own.items()}
    return config_from_dict(state["architecture"], state["model"]), weights, state["facts"]
