"""Published checkpoints as ussfast model directories."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.info import ModelInfo
from ussfast.convert import espnet, sfc, tuss, zeroshot
from ussfast.convert._files import file_record, find_yaml, read_average, read_json, read_yaml, weight_files
from ussfast.errors import CheckpointError, InputError
from ussfast.separation import make_folders


@dataclass(frozen=True)
class Publisher:
    """How one publisher's checkpoints are read.

    yaml: name of the settings file; needs: what it must hold, where that is worth telling.
    marks: entries that only these settings have at the top; none if the file's name says enough.
    complete: where settings alone do not make a configuration: (settings read, state dict, names of files and folders,
        "ema" or "raw") -> (configuration, the state dict to read, facts for the record of the source).
    optional: the settings are JSON that may lie beside the weights, and tells what they do not; only for who names the
        format.
    """

    yaml: str
    marks: tuple[str, ...]
    read_config: Callable[[dict[str, Any]], Any]
    read_weights: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
    complete: Callable[..., tuple[Any, dict[str, Tensor], dict[str, str]]] | None = None
    needs: str = ""
    optional: bool = False


FORMATS = {
    "tuss": Publisher("hparams.yaml", ("model_name", "model"), tuss.read_config, tuss.read_weights),
    "espnet": Publisher("config.yaml", ("separator", "separator_conf"), espnet.read_config, espnet.read_weights),
    "sfc": Publisher(sfc.YAML, (), sfc.read_config, sfc.read_weights, sfc.complete, sfc.NEEDS),
    "zeroshot": Publisher(
        zeroshot.JSON, (), zeroshot.read_config, zeroshot.read_weights, zeroshot.complete, optional=True
    ),
}


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    format: str = "auto",
    name: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
    weights: Literal["ema", "raw"] = "ema",
) -> ModelInfo:
    """Makes a model directory of a published checkpoint.

    Args:
        src: a file (.pth, .pt, Lightning's .ckpt, .safetensors with published keys), or a directory with one. Several
            in its folder `checkpoints` are averaged (last.ckpt left out). hparams.yaml (TUSS), config.yaml
            (ESPnet) or merged_config.yaml (SFC) must lie beside the weights or up to two directories above. With the
            weights of "zeroshot", a config.json of the constructor's arguments may lie.
        dst: the model directory to write; folders above it are made.
        format: "tuss", "espnet", "sfc", "zeroshot", or "auto": one of the first three, by the YAML file found.
        name: by default that of the directory with the YAML file, or with the weights if there is none.
        license: of the weights; ussfast does not guess it.
        overwrite: replace a model directory at `dst`.
        weights: of a checkpoint that has both copies, the running average over training steps ("ema"), or "raw".
    Raises:
        CheckpointError: files missing or damaged, a pickle with code in it, or weights and settings that do not
            belong together: the keys are named.
        InputError, OutputError: `dst` cannot be used or written.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"format {format!r} is unknown; there are auto, {', '.join(FORMATS)}")
    if weights not in ("ema", "raw"):
        raise InputError(f"weights must be ema or raw, got {weights!r}")
    files = weight_files(Path(src))
    target = checkpoint.place(dst)
    if os.path.isdir(target.parent):  # else there is nothing in the way but what makes folders fail
        checkpoint.check_target(target, overwrite)
    path, kind, settings = _settings(files, format)
    publisher = FORMATS[kind]
    try:
        config = publisher.read_config(settings)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state = read_average(files)
    facts: dict[str, str] = {}
    try:
        if publisher.complete is not None:
            names = [files[0].name, path.parent.name, path.parent.parent.name]
            config, state, facts = publisher.complete(config, state, names, weights)
        tensors = publisher.read_weights(state, config)
    except InputError as error:
        raise CheckpointError(f"{files[0]}: {error}") from None
    except (RuntimeError, ValueError, ArithmeticError, IndexError) as error:
        # Tensors of other shapes than published ones are found wherever a shape is first relied on.
        what = f"{files[0]}: the weights do not fit together with {path.name}"
        raise CheckpointError(f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None
    model = checkpoint.fill(config, tensors, str(files[0]))
    make_folders([target])
    source: dict[str, Any] = {"format": kind, "weights": [file_record(p) for p in files]}
    if path not in files:
        source["config"] = file_record(path)
    source |= facts
    return checkpoint.save_model(
        dst,
        model,
        name=name or path.absolute().parent.name or kind,
        license=license or "unknown (see the publisher)",
        source=source,
        overwrite=overwrite,
    )


def _settings(files: list[Path], format: str) -> tuple[Path, str, dict[str, Any]]:
    """The file of settings, its publisher and its content; the weights themselves where it may be missing, and is."""
    if format != "auto" and FORMATS[format].optional:
        beside = files[0].absolute().parent / FORMATS[format].yaml
        return (beside, format, read_json(beside)) if beside.is_file() else (files[0], format, {})
    possible = [p for kind, p in FORMATS.items() if format in ("auto", kind) and not p.optional]
    try:
        found = find_yaml(files, tuple(p.yaml for p in possible))
    except CheckpointError as error:
        raise CheckpointError("; ".join([str(error), *(p.needs for p in possible if p.needs)])) from None
    if format != "auto":
        return found[0], format, read_yaml(found[0])
    for path in found:
        settings = read_yaml(path)
        named = [kind for kind, p in FORMATS.items() if not p.marks and p.yaml == path.name]
        marked = [kind for kind, p in FORMATS.items() if any(mark in settings for mark in p.marks)]
        if named or marked:
            return path, (named or marked)[0], settings
    listed = ", ".join(map(str, found))
    raise CheckpointError(f"{files[0]}: {listed}: not the settings of a format known here ({', '.join(FORMATS)})")
