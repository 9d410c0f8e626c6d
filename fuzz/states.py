"""Ways to change checkpoints of tensors, shared by targets."""

import io
import random
import zipfile
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from fuzz.mutate import changed


def write_state(source: Path, state: dict, rng: random.Random, damaged: bool, stem: str = "model") -> None:
    """Writes them as a file of any kind, with changed bytes if `damaged`."""
    suffix = rng.choice((".pth", ".ckpt", ".safetensors"))
    if suffix == ".safetensors" and all(isinstance(key, str) and _own(value) for key, value in state.items()):
        data = safetensors.torch.save({key: value.detach().contiguous().clone() for key, value in state.items()})
    else:
        suffix, data = ".pth", saved(state, rng.random() < 0.8)
    if damaged:
        data = other_entries(data, rng) if rng.random() < 0.7 else changed(data, rng, 3)
    (source / f"{stem}{suffix}").write_bytes(data)


def saved(state: dict, as_archive: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(state, file, _use_new_zipfile_serialization=as_archive)
    return file.getvalue()


def _own(value: Any) -> bool:
    """Whether safetensors can hold it."""
    whole = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.device.type == "cpu"
    return whole and value.numel() < 10**6


def other_entries(data: bytes, rng: random.Random) -> bytes:
    """An archive whose parts have been changed but whose checksums are right, or the bytes changed if it is none."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return changed(data, rng, 3)
    with zipfile.ZipFile(io.BytesIO(data)) as old:
        parts = {name: old.read(name) for name in old.namelist()}
    chosen = next(n for n in parts if n.endswith("data.pkl")) if rng.random() < 0.7 else rng.choice(list(parts))
    parts[chosen] = changed(parts[chosen], rng, 2)
    out = io.BytesIO()
    method = zipfile.ZIP_STORED if rng.random() < 0.8 else zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(out, "w", method) as new:
        for name, part in parts.items():
            new.writestr(name, part)
    return out.getvalue()


def changed_state(given: dict[str, torch.Tensor], rng: random.Random) -> dict[Any, Any]:
    state: dict[Any, Any] = dict(given)
    for _ in range(rng.randint(1, 2)):
        key = rng.choice(list(state))
        value = state[key]
        plain = isinstance(value, torch.Tensor) and value.layout == torch.strided and value.numel() < 10**7
        match rng.randrange(12) if plain else 0:
            case 0:
                del state[key]
            case 1:
                state[rng.choice((1, "a\nb", "x" * 300, ("a", 1), f"model.{key}", f"ema_model.module.{key}"))] = value
            case 2:
                types = (torch.float64, torch.int8, torch.complex64, torch.float8_e5m2, torch.bool)
                state[key] = value.to(rng.choice(types))
            case 3:
                state[key] = value.expand(rng.choice((2, 10**6)), *value.shape)
            case 4:
                state[key] = value.mT if value.dim() > 1 else value.flatten()[:0]
            case 5:
                state[key] = value.unsqueeze(rng.choice((0, -1)))
            case 6:
                state[key] = value.squeeze()
            case 7:
                state[key] = rng.choice(
                    (value.to("meta"), torch.nn.Parameter(value.float()), value.to_sparse(), 1, [], {})
                )
            case 8:
                state[key] = value.flatten()
            case 9:
                state[key] = value * rng.choice((0, float("nan"), 1e38, -1))
            case 10:
                state[key] = torch.cat((value, value)) if value.dim() else value[None]
            case 11:
                state[key] = state[rng.choice(list(state))]
    return state
