"""Ways to change model directories, shared by targets."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import safetensors.torch
import torch

from fuzz.mutate import ODD_FLOATS, changed
from fuzz.trees import changed_tree, written

ODD_WHOLE = (0, 1, -1, 2**63 - 1, -(2**63))
Parts = tuple[dict, dict[str, torch.Tensor]]  # config.json, weights


def read_parts(directory: Path) -> Parts:
    table = json.loads((directory / "config.json").read_text())
    return table, safetensors.torch.load_file(directory / "model.safetensors")


def write_changed(
    folder: Path, table: dict, tensors: dict[str, torch.Tensor], settings: dict[str, tuple], rng: random.Random
) -> None:
    """Writes them, changed; settings: values that names in the configuration may have."""
    kind = rng.random()
    data = safetensors.torch.save(_changed_weights(tensors, rng) if kind < 0.3 else tensors)
    if kind > 0.9:
        data = changed(data, rng, 3)
    table = table | {"weights": table["weights"] | {"sha256": hashlib.sha256(data).hexdigest()}}
    if kind > 0.2:
        how = rng.random()
        if how < 0.5:
            table = table | {"config": _other_settings(table["config"], settings, rng)}
        elif how < 0.9:
            table = table | {"config": changed_tree(table["config"], rng)}
        else:
            table = changed_tree(table, rng)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_bytes(written(table, rng))


def _other_settings(config: dict, settings: dict[str, tuple], rng: random.Random) -> dict:
    config = json.loads(json.dumps(config))
    places = [(table, key) for table in _tables(config) for key in table if key in settings]
    for table, key in rng.sample(places, rng.randint(1, 3)):
        table[key] = rng.choice(settings[key])
    return config


def _tables(tree: object) -> Iterator[dict]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _tables(child)


def _changed_weights(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    tensors = {key: value.clone() for key, value in tensors.items()}
    key = rng.choice(list(tensors))
    value = tensors[key]
    match rng.randrange(7):
        case 0:
            tensors[key] = value.to(rng.choice((torch.float16, torch.float64, torch.int32, torch.float8_e4m3fn)))
        case 1:
            del tensors[key]
        case 2:
            tensors[rng.choice((*tensors, "x" * 300, "a\nb"))] = value.clone()
        case 3 if value.dim():
            tensors[key] = value[: rng.randrange(len(value) + 1)].clone()
        case 4:
            tensors[key] = value * rng.choice((0, -1, 1e3, 1e10, 1e20, 1e38))
        case _:
            odd = (*ODD_FLOATS, 1e38) if value.is_floating_point() else ODD_WHOLE
            value.view(-1)[rng.randrange(value.numel())] = rng.choice(odd)
    return tensors
