"""What lies in a run folder: checkpoints, each a folder of safetensors shards below 16 MiB with a state.json.

There may be other things: ours are step-NNNNNNN and best-NNNNNNN, with nothing but our files in them, and only
these are gone on from, replaced or removed.
"""

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from ussfast.audio.atomic import write_failure
from ussfast.errors import CheckpointError

SHARD_BYTES = 15 * 1024 * 1024
STATE, SHARD = "state.json", "shard-{:03d}.safetensors"

T = TypeVar("T")
Say = Callable[[str], None]


class Damaged(CheckpointError):
    """A checkpoint that cannot be read, or holds something else than its name says."""


def folders(directory: Path, kind: str) -> dict[int, Path]:
    """Checkpoints of a run by their step, the first one first; kind: "step" or "best"."""
    found = {}
    for path in directory.glob(f"{kind}-*"):
        number = re.fullmatch("[0-9]{7,18}", path.name.removeprefix(f"{kind}-"))
        if number and path.name == name_of(kind, int(number[0])) and path.is_dir():
            found[int(number[0])] = path
    return dict(sorted(found.items()))


def name_of(kind: str, step: int) -> str:
    return f"{kind}-{step:07d}"


def is_ours(folder: Path) -> bool:
    """Whether there is nothing in it but what `write` put there."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    return all(p.name == STATE or re.fullmatch(r"shard-[0-9]+\.safetensors", p.name) for p in folder.iterdir())


def _remove(path: Path) -> None:
    """What has one of our own hidden names."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    shutil.rmtree(path, ignore_errors=True)


def first_whole(found: Iterable[Path], read: Callable[[Path], T], say: Say) -> tuple[Path, T] | None:
    """The first of these checkpoints that can be read, and what is in it; `say` gets a line for each that cannot.

    Raises:
        Damaged: none can, but there are some. What `read` raises else.
    """
    errors = []
    for folder in found:
        try:
            return folder, read(folder)
        except Damaged as error:
            errors.append(str(error))
            say(f"{error}; looking for another one")
    if errors:
        raise Damaged(f"there is no whole checkpoint: {errors[0]}")
    return None


def remove(found: dict[int, Path], but: Collection[int] = ()) -> None:
    """Removes these folders, but those of some steps, and for those that hold more than what is ours."""
    for step, folder in found.items():
        if step not in but and is_ours(folder):
            shutil.rmtree(folder, ignore_errors=True)


def write(folder: Path, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
    """Writes beside `folder`, then renames: a folder of that name is always complete."""
    fresh, old = (folder.with_name(f".{folder.name}.{end}") for end in ("new", "old"))
    try:
        _remove(fresh)
        fresh.mkdir(parents=True)
        _fill(fresh, tensors, state)
        _remove(old)
        if os.path.lexists(folder):
            # What is not ours steps aside: a run may not end here, and may not take anything away.
            os.rename(folder, old if is_ours(folder) else _free(folder))
        os.rename(fresh, folder)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise write_failure(folder, error) from error
    shutil.rmtree(old, ignore_errors=True)


def _free(path: Path) -> Path:
    """A name beside `path` that nothing has."""
    names = (path.with_name(f"{path.name}-other-{number}") for number in range(1, 10**6))
    return next(name for name in names if not os.path.lexists(name))


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
    sums = []
    for number, shard in enumerate(shards):
        data = safetensors.torch.save(shard)
        sums.append(hashlib.sha256(data).hexdigest())
        (fresh / SHARD.format(number)).write_bytes(data)
    (fresh / STATE).write_text(json.dumps(state | {"shards": len(shards), "sha256": sums}, indent=1))


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state; Damaged unless they are all there, and of the kinds that they must be."""
    try:
        state = json.loads((folder / STATE).read_bytes())
        facts, shards = state["facts"], state["shards"]
        whole = type(facts["step"]) is int and is_number(facts.get("seconds", 0)) and type(shards) is int and shards > 0
        if not whole or not isinstance(state["model"], dict) or not isinstance(state["architecture"], str):
            raise ValueError(f"{STATE} is not of a checkpoint")
        tensors: dict[str, Tensor] = {}
        for number in range(shards):
            data = (folder / SHARD.format(number)).read_bytes()
            if "sha256" in state and hashlib.sha256(data).hexdigest() != state["sha256"][number]:
                raise ValueError(f"{SHARD.format(number)} is damaged")
            tensors |= safetensors.torch.load(data)
        if not tensors:
            raise ValueError("there are no weights in it")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, SafetensorError) as error:
        why = f"no {error} in {STATE}" if isinstance(error, KeyError) else str(error)
        raise Damaged(f"{folder} is not a training checkpoint: {' '.join(why.split())}") from None
    return tensors, state


def is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)
