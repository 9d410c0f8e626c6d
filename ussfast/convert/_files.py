"""Published checkpoint files: which ones, what is in them, and the YAML that belongs to them."""

import hashlib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast import plain
from ussfast.checkpoints.store import FLOATS, parse
from ussfast.convert._pickles import bounded, names_in
from ussfast.errors import CheckpointError, InputError
from ussfast.plain import read_json, shown

MOST_SHARED = 4  # times that the bytes of a file may count: copies of the same weights under several names
TYPES = (*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
SUFFIXES = (".pth", ".ckpt", ".safetensors", ".pt")


def weight_files(source: Path) -> list[Path]:
    """The weight files meant by a file or directory; several are to be averaged, as the publishers do.

    Raises:
        CheckpointError: there is none, or several outside a folder named checkpoints.
    """
    if os.path.isfile(source):
        if source.suffix not in SUFFIXES:
            raise CheckpointError(f"{source}: weights end in {', '.join(SUFFIXES)}")
        return [source]
    if not os.path.isdir(source):
        raise CheckpointError(f"{source}: no such file or directory")
    folder = source / "checkpoints" if (source / "checkpoints").is_dir() else source
    found = sorted(p for p in folder.iterdir() if p.suffix in SUFFIXES and p.is_file())
    # Training leaves the best checkpoints and the last one; only the best count.
    best = [p for p in found if p.name not in ("last.ckpt", "latest.model.pth")] or found
    if not best:
        raise CheckpointError(f"{folder}: no weights here (files that end in {', '.join(SUFFIXES)})")
    if len(best) > 1 and folder.name != "checkpoints":
        names = ", ".join(p.name for p in best)
        raise CheckpointError(f"{folder}: several files of weights ({names}): give one of them")
    return best


def read_average(files: list[Path]) -> dict[str, Tensor]:
    """The state dict of these files: the mean of floating tensors, and as published the sum of whole numbers."""
    total = read_state(files[0])
    for path in files[1:]:
        state = read_state(path)
        if shapes(state) != shapes(total):
            raise CheckpointError(f"{path}: other keys or shapes than {files[0].name}: they cannot be averaged")
        total = {key: value + state[key] for key, value in total.items()}
    return {key: value / len(files) if value.is_floating_point() else value for key, value in total.items()}


def shapes(state: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in state.items()}


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of one file by published key; pickles are only read as far as they hold plain data."""
    return checked(parse(_bytes(path), str(path)) if path.suffix == ".safetensors" else _table(path), path)


def checked(data: dict[Any, Any], path: Path) -> dict[str, Tensor]:
    """A table of tensors of a file, copied, if that is what it is; CheckpointError otherwise."""
    for key, value in data.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise CheckpointError(f"{path}: not a table of tensors: {shown(key)} is something else")
        if not _dense(value):
            raise CheckpointError(f"{path}: {shown(key)} is no ordinary tensor: its numbers are not all in the file")
        if value.dtype not in TYPES:
            raise CheckpointError(f"{path}: {shown(key)} is of type {value.dtype}, which no weights known here are of")
    size, needed = path.stat().st_size, sum(value.nbytes for value in data.values())
    if needed > MOST_SHARED * size:
        raise CheckpointError(f"{path}: its tensors share {size} bytes, but would need {needed} of their own")
    return {key: value.detach().clone() for key, value in data.items()}


def unpickled(path: Path, known: Callable[[str], type | None] = lambda name: None) -> Any:
    """What a pickle holds, which may be tensors and plain values.

    known: what stands for a class that the pickle names, and is made in its place; nothing of that name is looked for.
    """
    with path.open("rb") as file:
        if file.read(40).startswith(b"version https://git-lfs.github.com"):
            raise CheckpointError(f"{path}: a git-LFS pointer, not the weights: fetch them with 'git lfs pull'")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if not bounded(path):
                raise ValueError
            asked: dict[str, Any] = {name: known(name) for name in sorted(names_in(path))}
            with torch.serialization.safe_globals([(kind, name) for name, kind in asked.items() if kind is not None]):
                # Mapped, a tensor is a part of the file: neither is anything unpacked, nor read beyond its end.
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL (\S+)", str(error))
        what = f"contains code ({found[1]})" if found else "contains code, or is damaged"
        raise CheckpointError(f"{path}: {what} and will not be loaded; only plain tensors are") from None
    except Exception as error:
        # What torch.load raises for a damaged file depends on where it is damaged.
        raise CheckpointError(f"{path}: damaged, or not a PyTorch checkpoint ({type(error).__name__})") from None


def _table(path: Path) -> dict[Any, Any]:
    """The table of tensors in a pickle: the outermost one, or what is known to be inside."""
    data = unpickled(path)
    for inside in ("state_dict", "model"):  # Lightning's, and that of the PANNs; only tables of tensors are flat
        if isinstance(data, dict) and isinstance(data.get(inside), dict):
            data = data[inside]
            break
    if not isinstance(data, dict) or not data:
        raise CheckpointError(f"{path}: no table of tensors in it")
    return data


def _dense(tensor: Tensor) -> bool:
    """Whether a tensor of a file has a place of its own for each of its numbers."""
    if type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.layout != torch.strided or tensor.is_quantized:
        return False
    if tensor.device.type != "cpu" or tensor.nbytes > tensor.untyped_storage().nbytes():
        return False
    next_free = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size == 1:
            continue
        if stride < next_free:
            return False
        next_free = stride * size
    return True


def find_yaml(files: list[Path], names: tuple[str, ...]) -> list[Path]:
    """YAML files of these names beside the weights or up to two directories above, nearest first.

    Raises:
        CheckpointError: there is none.
    """
    folder = files[0].absolute().parent
    places = [folder, *folder.parents[:2]]
    found = [place / name for place in places for name in names if (place / name).is_file()]
    if not found:
        where = ", ".join(map(str, places))
        listed = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
        raise CheckpointError(f"{files[0]}: no {listed} belongs to it; looked in {where}")
    return found


def read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = plain.read_yaml(path)
    except ImportError:
        raise CheckpointError(f"{path}: reading it needs PyYAML: pip install 'ussfast[convert]'") from None
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: a table of settings is expected")
    return data


def file_record(path: Path) -> dict[str, str]:
    with path.open("rb") as file:
        return {"file": path.name, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def table_beside(path: Path, name: str) -> dict[str, Any] | None:
    """The table in the JSON file of this name beside a file of weights: empty for one that is no table or cannot be
    read, None where there is none."""
    beside = path.parent / name
    if not beside.is_file():
        return None
    try:
        data = read_json(beside)
    except InputError:
        return {}
    return data if isinstance(data, dict) else {}
