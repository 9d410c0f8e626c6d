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

from ussfast.audio.atomic import write_failure
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


def save_best(
    directory: Path, recipe: Recipe, weights: dict[str, Tensor], facts: dict[str, Any], kept: list[tuple[int, float]]
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
        save_weights(directory / f"best-{step:07d}", recipe, weights, facts)
    names = {f"best-{step:07d}" for step, _ in best}
    for folder in directory.glob("best-*"):
        if folder.name not in names:
            shutil.rmtree(folder)
    return best


def best(directory: Path) -> list[Path]:
    """Folders of validated weights, the best first."""
    scored = []
    for folder in [directory / "best", *directory.glob("best-*")]:  # earlier versions kept one, named best
        if folder.is_dir():
            facts = _read(folder)[1]["facts"]
            scored.append((facts["mean"] if "mean" in facts else facts["best"], facts["step"], folder))
    return [folder for _, _, folder in sorted(scored, reverse=True)]


def save(
    directory: Path,
    recipe: Recipe,
    weights: dict[str, Tensor],
    optimizer: dict[str, Any],
    facts: dict[str, Any],
    extra: dict[str, Tensor],
) -> Path:
    """A full checkpoint under `directory`; the newest two are kept. `extra` has names with a point, such as ema.x."""
    tensors = {f"model.{name}": tensor for name, tensor in weights.items()} | extra
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


def shrink(source: Path, folder: Path) -> None:
    """Writes the full checkpoint `source` as `folder` in half the bytes, for where every byte counts.

    A run goes on from it, but not bit for bit: weights and their mean are rounded to float16, moments to bfloat16,
    whose range squares of small gradients need.

    Raises:
        CheckpointError: `source` holds weights alone, or is damaged.
    """
    tensors, state = _read(source)
    if "optimizer" not in state:
        raise CheckpointError(f"{source} is not a full checkpoint: no run can go on from it")
    dtypes = {"model": torch.float16, "ema": torch.float16, "optimizer": torch.bfloat16}
    for name, tensor in tensors.items():
        dtype = dtypes.get(name.partition(".")[0])
        if dtype is not None and tensor.dtype == torch.float32 and tensor.numel() > 1:
            tensors[name] = tensor.to(dtype)
    _write(folder, tensors, state)


def newest(directory: Path) -> Path | None:
    found = sorted(directory.glob("step-*"))
    return found[-1] if found else None


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


def load(folder: Path, recipe: Recipe) -> Checkpoint:
    """A full checkpoint; CheckpointError when the recipe's model is another one."""
    tensors, state = _read(folder)
    if state["model"] != _model_facts(recipe):
        raise CheckpointError(f"{folder} was trained with another model configuration than recipe {recipe.name}")
    weights: dict[str, Tensor] = {}
    extra: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "model":
            weights[rest] = value
        elif kind == "optimizer":
            index, name = rest.split(".")
            moments.setdefault(int(index), {})[name] = value
        else:
            extra[key] = value
    return Checkpoint(weights, {"state": moments, **state["optimizer"]}, state["facts"], extra)


def load_weights(folder: Path, mean: bool = True) -> tuple[Any, dict[str, Tensor], dict[str, Any]]:
    """Model configuration, weights and facts of a weights-only or a full checkpoint.

    mean: of a full one, the running mean of the weights, or else those of its last step.
    """
    tensors, state = _read(folder)
    weights = tensors
    if "optimizer" in state:
        weights = {k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")}
        if mean:
            weights |= {k.removeprefix("ema."): v for k, v in tensors.items() if k.startswith("ema.")}
    return config_from_dict(state["architecture"], state["model"]), weights, state["facts"]
