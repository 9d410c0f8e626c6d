"""Model directories: config.json and model.safetensors, saved atomically, loaded strictly, found by name."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ussfast.audio.atomic import write_failure
from ussfast.audio.temporary import sweep, temporary_name
from ussfast.checkpoints import hub, names
from ussfast.checkpoints.info import ModelDirectory, ModelInfo, WeightsFile, describe, read, read_info
from ussfast.checkpoints.names import CONFIG, FORMAT, VERSION, WEIGHTS, resolve
from ussfast.errors import CheckpointError, InputError, OutputError
from ussfast.models import SpectralModel, architecture_of, build
from ussfast.models.config import to_dict

__all__ = ["ModelInfo", "available", "describe", "fill", "load_model", "read_info", "resolve", "save_model"]

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}


def save_model(
    directory: str | os.PathLike[str],
    model: SpectralModel,
    *,
    name: str,
    license: str,
    source: Mapping[str, Any],
    dtype: torch.dtype | None = None,
    overwrite: bool = False,
) -> ModelInfo:
    """Writes a model directory, complete or not at all.

    Args:
        directory: to be created (its parent must exist), or empty, or a model directory if `overwrite`; other
            files in that one, such as its card, are kept.
        name, license, source: recorded as they are; `source` must be plain JSON.
        dtype: of the stored parameters: float32, float16 or bfloat16; their own by default. Buffers (rotary
            frequencies) keep theirs.
    Raises:
        InputError: the directory holds something else, or `overwrite` is missing.
        CheckpointError: weights that are not finite, or not in `dtype`.
        OutputError: it could not be written.
    """
    directory = Path(directory).resolve()
    check_target(directory, overwrite)
    dtype = dtype or model.dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"weights can be stored as {', '.join(DTYPES.values())}, not {dtype}")
    parameters = {key for key, _ in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        stored = value.detach().cpu().to(dtype if key in parameters else value.dtype).contiguous()
        # A buffer may hide things with -inf; what is trained may not be infinite.
        if stored.isnan().any() or (key in parameters and not stored.isfinite().all()):
            raise CheckpointError(f"{key} is not finite as {DTYPES[dtype]}: the model is not saved")
        tensors[key] = stored
    data = safetensors.torch.save(tensors)
    content = ModelDirectory(
        format=FORMAT,
        version=VERSION,
        name=name,
        license=license,
        source=dict(source),
        architecture=architecture_of(model.config),
        config=to_dict(model.config),
        parameters=model.parameter_count(),
        weights=WeightsFile(WEIGHTS, hashlib.sha256(data).hexdigest(), DTYPES[dtype]),
    )
    text = json.dumps(dataclasses.asdict(content), indent=2, ensure_ascii=False) + "\n"
    sweep(directory.parent)
    fresh = temporary_name(directory)
    try:
        if directory.is_dir():
            shutil.copytree(directory, fresh, ignore=shutil.ignore_patterns(CONFIG, WEIGHTS), symlinks=True)
        else:
            fresh.mkdir()
        (fresh / WEIGHTS).write_bytes(data)
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        _move(fresh, directory)
    except OSError as error:
        raise write_failure(directory, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return read_info(directory)


def check_target(directory: Path, overwrite: bool) -> None:
    """Raises what save_model would raise for this place."""
    if not directory.parent.is_dir():
        raise OutputError(f"{directory}: cannot be written: {directory.parent} is not a directory")
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        ours = json.loads((directory / CONFIG).read_bytes())["format"] == FORMAT
    except (OSError, ValueError, TypeError, KeyError):
        ours = False
    if not ours:
        raise InputError(f"{directory}: exists and is not a ussfast model directory: choose another name")
    if not overwrite:
        raise InputError(f"{directory}: there is a model already: choose another name, or allow overwriting it")


def _move(fresh: Path, directory: Path) -> None:
    """Renames `fresh` to `directory`; what was there comes back if that fails."""
    if not directory.exists():
        os.rename(fresh, directory)
        return
    old = directory.with_name(f".{directory.name}-{uuid.uuid4().hex}")
    os.rename(directory, old)
    try:
        os.rename(fresh, directory)
    except OSError:
        os.rename(old, directory)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_model(directory: str | os.PathLike[str]) -> tuple[SpectralModel, ModelInfo]:
    """The model in float32 on the CPU, in evaluation mode.

    Raises:
        CheckpointError: files missing, damaged, or not those of the configured architecture.
    """
    directory = Path(directory)
    info, weights = read(directory)
    path = directory / weights.file
    if path.parent != directory or not path.is_file():
        raise CheckpointError(f"{directory}: the weights {weights.file!r} of its {CONFIG} are missing")
    try:
        # Read once: what is hashed is what is loaded, and nothing stays mapped to a file that may change.
        data = path.read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        if digest != weights.sha256.lower():
            raise CheckpointError(
                f"{path}: damaged or incomplete: SHA-256 {digest[:12]}... ({len(data)} bytes), "
                f"{CONFIG} says {weights.sha256[:12]}..."
            )
        tensors = safetensors.torch.load(data)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
    return fill(info.config, tensors, str(path)), info


def fill(config: Any, tensors: Mapping[str, Tensor], where: str) -> SpectralModel:
    """A model of `config` with exactly these tensors, in float32 and evaluation mode.

    Raises:
        CheckpointError: keys missing or unexpected, or shapes that differ; a few of each are named.
    """
    try:
        with _Uninitialised():
            model = build(config)
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(f"{where}: no model can be built from its configuration: {error}") from None
    expected = model.state_dict()
    shapes = [
        f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "wrong shape": shapes,
    }
    if any(problems.values()):
        text = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{where}: the weights are not those of the configured model: {text}")
    wanted = {k: torch.float32 if v.is_floating_point() else v.dtype for k, v in expected.items()}
    model.load_state_dict({key: tensors[key].to(dtype) for key, dtype in wanted.items()}, assign=True)
    return model.eval()


class _Uninitialised(TorchFunctionMode):
    """Random tensors stay uninitialised: they are about to be replaced, and the caller's generator is left alone.

    The meta device would do the same, but its first use costs two seconds of imports.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        # Both the methods of tensors and the functions of torch.nn.init that end in them.
        if getattr(func, "__name__", "").endswith(("normal_", "uniform_")):
            return args[0] if args else kwargs["tensor"]
        return (torch.empty if func in (torch.randn, torch.rand) else func)(*args, **kwargs)


def some(names: Iterable[str], most: int = 3) -> str:
    """The first few of these names and how many more there are."""
    names = list(names)
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def available() -> list[ModelInfo]:
    """Models that need no download: embedded ones, then those of ours in the Hugging Face cache."""
    found = [*names.embedded().items(), *hub.cached((CONFIG, WEIGHTS))]
    infos = []
    for name, directory in found:
        try:
            infos.append(dataclasses.replace(read_info(directory), name=name))
        except CheckpointError:
            continue  # somebody else's model, or a newer ussfast's
    return infos
