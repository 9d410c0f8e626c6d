"""Published checkpoints as ussfast model directories."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ussfast import checkpoint
from ussfast.convert import espnet, tuss
from ussfast.convert._files import file_record, find_yaml, read_average, read_yaml, weight_files
from ussfast.errors import CheckpointError, InputError
from ussfast.model_info import ModelInfo


@dataclass(frozen=True)
class Publisher:
    """yaml: name of its settings file; marks: entries that only its settings have at the top."""

    yaml: str
    marks: tuple[str, ...]
    read_config: Callable[[dict[str, Any]], Any]
    read_weights: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]


FORMATS = {
    "tuss": Publisher("hparams.yaml", ("model_name", "model"), tuss.read_config, tuss.read_weights),
    "espnet": Publisher("config.yaml", ("separator", "separator_conf"), espnet.read_config, espnet.read_weights),
}


def convert(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    format: str = "auto",
    name: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> ModelInfo:
    """Makes a model directory of a published checkpoint.

    Args:
        src: a file (.pth, Lightning's .ckpt, .safetensors with published keys), or a directory with one. Several
            in its folder `checkpoints` are averaged (last.ckpt left out). hparams.yaml (TUSS) or config.yaml
            (ESPnet) must lie beside the weights or up to two directories above.
        dst: the model directory to write.
        format: "tuss", "espnet", or "auto": by the YAML file found.
        name: by default that of the directory with the YAML file.
        license: of the weights; ussfast does not guess it.
        overwrite: replace a model directory at `dst`.
    Raises:
        CheckpointError: files missing or damaged, a pickle with code in it, or weights and settings that do not
            belong together: the keys are named.
        InputError, OutputError: `dst` cannot be used or written.
    """
    if format not in ("auto", *FORMATS):
        raise InputError(f"format {format!r} is unknown; there are auto, {', '.join(FORMATS)}")
    checkpoint.check_target(Path(dst).resolve(), overwrite)
    files = weight_files(Path(src))
    path, kind, settings = _settings(files, format)
    publisher = FORMATS[kind]
    try:
        config = publisher.read_config(settings)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state = read_average(files)
    try:
        tensors = publisher.read_weights(state, config)
    except CheckpointError as error:
        raise CheckpointError(f"{files[0]}: {error}") from None
    model = checkpoint.fill(config, tensors, str(files[0]))
    source = {"format": kind, "weights": [file_record(p) for p in files], "config": file_record(path)}
    return checkpoint.save_model(
        dst,
        model,
        name=name or path.parent.name or kind,
        license=license or "unknown (see the publisher)",
        source=source,
        overwrite=overwrite,
    )


def _settings(files: list[Path], format: str) -> tuple[Path, str, dict[str, Any]]:
    """The YAML file, its publisher and its content."""
    names = tuple(p.yaml for kind, p in FORMATS.items() if format in ("auto", kind))
    found = find_yaml(files, names)
    if format != "auto":
        return found[0], format, read_yaml(found[0])
    for path in found:
        settings = read_yaml(path)
        for kind, publisher in FORMATS.items():
            if any(mark in settings for mark in publisher.marks):
                return path, kind, settings
    listed = ", ".join(map(str, found))
    raise CheckpointError(f"{files[0]}: {listed}: not the settings of a format known here ({', '.join(FORMATS)})")
