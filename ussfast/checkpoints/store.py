"""Model directories: config.json and model.safetensors, saved atomically, loaded strictly, found by name."""

import dataclasses
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from ussfast.audio.atomic import write_failure
from ussfast.audio.temporary import sweep, temporary_name
from ussfast.checkpoints import hub, names
from ussfast.checkpoints.building import Sparing
from ussfast.checkpoints.info import ModelDirectory, ModelInfo, WeightsFile, describe, read, read_info
from ussfast.checkpoints.names import CONFIG, FORMAT, VERSION, WEIGHTS, resolve
from ussfast.errors import CheckpointError, InputError, OutputError
from ussfast.models import Network, SpectralModel, architecture_of, build, build_detector
from ussfast.models.config import to_dict
from ussfast.models.detectors import DetectorModel
from ussfast.plain import read_json

__all__ = [
    "ModelInfo", "available", "describe", "fill", "fill_detector", "load_detector", "load_model", "read_info",
    "resolve", "save_model",
]  # fmt: skip

DTYPES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}
FLOATS = (*DTYPES, torch.float64)
M = TypeVar("M", SpectralModel, DetectorModel)


def save_model(
    directory: str | os.PathLike[str],
    model: Network,
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
        InputError: the directory holds something else, or `overwrite` is missing; a name that does not fit into a line.
        CheckpointError: weights that are not finite, or not in `dtype`.
        OutputError: it could not be written.
    """
    directory = place(directory)
    check_target(directory, overwrite)
    dtype = dtype or model.dtype
    if dtype not in DTYPES:
        raise CheckpointError(f"weights can be stored as {', '.join(DTYPES.values())}, not {dtype}")
    parameters = {key for key, _ in model.named_parameters()}
    tensors: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        stored = value.detach().cpu().to(dtype if key in parameters else value.dtype).contiguous()
        if not sound(stored, key in parameters):
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
    text = json.dumps(dataclasses.asdict(content), indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    sweep(directory.parent)
    fresh = temporary_name(directory)
    try:
        if directory.is_dir():
            shutil.copytree(directory, fresh, ignore=partial(_replaced, str(directory)), symlinks=True)
        else:
            fresh.mkdir()
        (fresh / WEIGHTS).write_bytes(data)
        (fresh / CONFIG).write_bytes(text.encode("utf-8", "replace"))  # names of files may not be text
        _move(fresh, directory)
    except OSError as error:
        raise write_failure(directory, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return read_info(directory)


def _replaced(top: str, folder: str, _: list[str]) -> list[str]:
    """What is written anew: files of the folder itself, none of a detector inside."""
    return [CONFIG, WEIGHTS] if os.fspath(folder) == top else []


def place(directory: str | os.PathLike[str]) -> Path:
    """The absolute path of a directory to be written; InputError for what cannot be one."""
    try:
        return Path(directory).resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"{directory}: not a directory that can be written: {error}") from None


def check_target(directory: Path, overwrite: bool) -> None:
    """Raises what save_model would raise for this place."""
    if not os.path.isdir(directory.parent):
        raise OutputError(f"{directory}: cannot be written: {directory.parent} is not a directory")
    if not os.path.exists(directory) or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        ours = read_json(directory / CONFIG)["format"] == FORMAT
    except (ValueError, TypeError, KeyError):
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
        CheckpointError: files missing, damaged, or not those of the configured architecture; a detector.
    """
    directory = Path(directory)
    info, weights = read(directory)
    if info.detects:
        raise CheckpointError(
            f"{directory}: a detector ({info.architecture}), which separates nothing: it is for ussfast.Detector and "
            "'ussfast detect'"
        )
    tensors, where = _tensors(directory, weights)
    return fill(info.config, tensors, where), info


def load_detector(directory: str | os.PathLike[str]) -> tuple[DetectorModel, ModelInfo]:
    """The same for detectors; CheckpointError also for a model that separates."""
    directory = Path(directory)
    info, weights = read(directory)
    if not info.detects:
        raise CheckpointError(
            f"{directory}: a model that separates ({info.architecture}), not a detector: it is for ussfast.Separator; "
            f"{names.another_detector()}"
        )
    tensors, where = _tensors(directory, weights)
    return fill_detector(info.config, tensors, where), info


def _tensors(directory: Path, weights: WeightsFile) -> tuple[dict[str, Tensor], str]:
    """The weights of a model directory, which are those that its config.json means, and where they are from."""
    path = directory / weights.file
    if path.parent != directory or not os.path.isfile(path):
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
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
    return parse(data, str(path)), str(path)


def parse(data: bytes, where: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; CheckpointError if it is none."""
    try:
        return safetensors.torch.load(data)
    except Exception as error:
        # What comes for a type that this torch does not have, or a header that is wrong, depends on how it is.
        raise CheckpointError(f"{where}: not readable as safetensors: {error}") from None


def sound(tensor: Tensor, trained: bool) -> bool:
    """Whether all are numbers, and none of what is trained is infinite; a buffer may hide things with -inf."""
    if tensor.isfinite().all():
        return True
    return not trained and not tensor.isnan().any() and not (tensor == float("inf")).any()


def fill(config: Any, tensors: Mapping[str, Tensor], where: str) -> SpectralModel:
    """A model of `config` with exactly these tensors, in float32 and evaluation mode.

    What is built before shapes are compared is not much larger than these tensors are.

    Raises:
        CheckpointError: keys missing or unexpected, shapes or types that differ, a few of each are named; values that
            are no numbers.
    """
    return _filled(build, config, tensors, where)


def fill_detector(config: Any, tensors: Mapping[str, Tensor], where: str) -> DetectorModel:
    """`fill` for the configuration of a detector."""
    return _filled(build_detector, config, tensors, where)


def _filled(make: Callable[[Any], M], config: Any, tensors: Mapping[str, Tensor], where: str) -> M:
    numbers = sum(tensor.numel() for tensor in tensors.values())
    try:
        with Sparing(len(tensors), numbers):
            model = make(config)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"{where}: no model can be built from its configuration: {error}") from None
    expected = model.state_dict()
    shapes = [
        f"{key} {list(tensors[key].shape)} instead of {list(value.shape)}"
        for key, value in expected.items()
        if key in tensors and tensors[key].shape != value.shape
    ]
    types = [
        f"{key} {str(tensors[key].dtype).removeprefix('torch.')}"
        for key, value in expected.items()
        if key in tensors and tensors[key].dtype not in (FLOATS if value.is_floating_point() else (value.dtype,))
    ]
    problems = {
        "missing": sorted(expected.keys() - tensors.keys()),
        "unexpected": sorted(tensors.keys() - expected.keys()),
        "wrong shape": shapes,
        "wrong type": types,
    }
    if any(problems.values()):
        text = "; ".join(f"{kind}: {some(names)}" for kind, names in problems.items() if names)
        raise CheckpointError(f"{where}: the weights are not those of the configured model: {text}")
    wanted = {k: torch.float32 if v.is_floating_point() else v.dtype for k, v in expected.items()}
    model.load_state_dict({key: tensors[key].to(dtype) for key, dtype in wanted.items()}, assign=True)
    trained = {key for key, _ in model.named_parameters()}
    if bad := [key for key, value in model.state_dict().items() if not sound(value, key in trained)]:
        raise CheckpointError(f"{where}: the weights are not finite: {some(bad)}")
    return model.eval()


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
