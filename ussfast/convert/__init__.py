"""Published checkpoints as ussfast model directories."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.info import ModelInfo
from ussfast.convert import espnet, htsat, nussl, panns, sfc, tuss, zeroshot
from ussfast.convert._files import file_record, find_yaml, read_average, read_yaml, weight_files
from ussfast.errors import CheckpointError, InputError
from ussfast.models import DETECTORS, Network, architecture_of
from ussfast.separation import make_folders


@dataclass(frozen=True)
class Publisher:
    """How one publisher's checkpoints are read.

    yaml: name of the settings file; needs: what it must hold, where that is worth telling.
    marks: entries that only these settings have at the top; none if the file's name says enough.
    complete: where settings alone do not make a configuration: (settings read, state dict, names of files and folders,
        "ema" or "raw") -> (configuration, the state dict to read, facts for the record of the source).
    """

    yaml: str
    marks: tuple[str, ...]
    read_config: Callable[[dict[str, Any]], Any]
    read_weights: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
    complete: Callable[..., tuple[Any, dict[str, Tensor], dict[str, str]]] | None = None
    needs: str = ""


@dataclass(frozen=True)
class OwnSettings:
    """How checkpoints are read whose publisher writes no settings beside them.

    belongs: whether a file is one of these; find: what is known of it, with a `source` for the record.
    configure: (what `find` gave, state dict) -> configuration.
    state: where weights and settings are one file, (what `find` gave) -> state dict; None: the weights of all files.
    """

    belongs: Callable[[Path], bool]
    find: Callable[[Path], Any]
    configure: Callable[[Any, dict[str, Tensor]], Any]
    read_weights: Callable[[dict[str, Tensor], Any], dict[str, Tensor]]
    state: Callable[[Any], dict[str, Tensor]] | None = None


FORMATS = {
    "tuss": Publisher("hparams.yaml", ("model_name", "model"), tuss.read_config, tuss.read_weights),
    "espnet": Publisher("config.yaml", ("separator", "separator_conf"), espnet.read_config, espnet.read_weights),
    "sfc": Publisher(sfc.YAML, (), sfc.read_config, sfc.read_weights, sfc.complete, sfc.NEEDS),
}
OWN_SETTINGS = {
    "panns": OwnSettings(panns.belongs, panns.find_settings, panns.configure, panns.read_weights),
    "htsat": OwnSettings(htsat.belongs, htsat.find_settings, htsat.configure, htsat.read_weights),
    "zeroshot": OwnSettings(zeroshot.belongs, zeroshot.find_settings, zeroshot.configure, zeroshot.read_weights),
    "nussl": OwnSettings(nussl.belongs, nussl.find_settings, nussl.configure, nussl.read_weights, nussl.state),
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
            (ESPnet) or merged_config.yaml (SFC) must lie beside the weights or up to two directories above. Files of
            the PANNs and of HTS-AT need config.json beside them only where they are not called like the published
            ones, those of "zeroshot" where hop and rate are not the published ones. nussl's have all in one file.
        dst: the model directory to write; folders above it are made.
        format: "tuss", "espnet", "sfc", "panns", "htsat", "zeroshot", "nussl", or "auto": by the name of the file, what
            is in it, or the settings found.
        name: by default that of the directory with the YAML file, or of the file.
        license: of the weights; ussfast does not guess it.
        overwrite: replace a model directory at `dst`.
        weights: of a checkpoint that has both copies, the running average over training steps ("ema"), or "raw".
    Raises:
        CheckpointError: files missing or damaged, a pickle with code in it, or weights and settings that do not
            belong together: the keys are named.
        InputError, OutputError: `dst` cannot be used or written.
    """
    if format not in ("auto", *FORMATS, *OWN_SETTINGS):
        raise InputError(f"format {format!r} is unknown; there are auto, {', '.join([*FORMATS, *OWN_SETTINGS])}")
    if weights not in ("ema", "raw"):
        raise InputError(f"weights must be ema or raw, got {weights!r}")
    files = weight_files(Path(src))
    target = checkpoint.place(dst)
    if os.path.isdir(target.parent):  # else there is nothing in the way but what makes folders fail
        checkpoint.check_target(target, overwrite)
    own = _own_settings(files[0], format)
    read = _with_yaml(files, format, weights) if own is None else _with_own_settings(files, own)
    model: Network
    if architecture_of(read.config) in DETECTORS:
        model = checkpoint.fill_detector(read.config, read.tensors, str(files[0]))
    else:
        model = checkpoint.fill(read.config, read.tensors, str(files[0]))
    make_folders([target])
    return checkpoint.save_model(
        dst,
        model,
        name=name or read.name or read.kind,
        license=license or "unknown (see the publisher)",
        source={"format": read.kind, "weights": [file_record(p) for p in files], **read.facts},
        overwrite=overwrite,
    )


@dataclass(frozen=True)
class _Read:
    """What there is to save, and for the record of the source."""

    kind: str
    config: Any
    tensors: dict[str, Tensor]
    name: str
    facts: dict[str, Any]


def _with_yaml(files: list[Path], format: str, weights: str) -> _Read:
    path, kind, settings = _settings(files, format)
    publisher = FORMATS[kind]
    try:
        config = publisher.read_config(settings)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    state = read_average(files)
    facts: dict[str, str] = {}
    with _fitting(files[0], path.name):
        if publisher.complete is not None:
            names = [files[0].name, path.parent.name, path.parent.parent.name]
            config, state, facts = publisher.complete(config, state, names, weights)
        tensors = publisher.read_weights(state, config)
    return _Read(kind, config, tensors, path.parent.name, {"config": file_record(path), **facts})


def _with_own_settings(files: list[Path], kind: str) -> _Read:
    publisher = OWN_SETTINGS[kind]
    settings = publisher.find(files[0])
    if publisher.state is not None and len(files) > 1:
        raise CheckpointError(f"{files[0].parent}: {len(files)} files of weights, each with settings: give one of them")
    state = read_average(files) if publisher.state is None else publisher.state(settings)
    with _fitting(files[0], "the settings"):
        config = publisher.configure(settings, state)
        tensors = publisher.read_weights(state, config)
    return _Read(kind, config, tensors, files[0].stem, settings.source)


@contextmanager
def _fitting(file: Path, settings: str) -> Iterator[None]:
    """Says which file it was that does not fit."""
    try:
        yield
    except InputError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (RuntimeError, ValueError, ArithmeticError, IndexError) as error:
        # Tensors of other shapes than published ones are found wherever a shape is first relied on.
        what = f"{file}: the weights do not fit together with {settings}"
        raise CheckpointError(f"{what}: {type(error).__name__}: {str(error).partition(chr(10))[0]}") from None


def _own_settings(file: Path, format: str) -> str | None:
    """The format of a checkpoint whose settings are its publisher's own, if it is one."""
    if format in OWN_SETTINGS:
        return format
    return next((kind for kind, p in OWN_SETTINGS.items() if format == "auto" and p.belongs(file)), None)


def _settings(files: list[Path], format: str) -> tuple[Path, str, dict[str, Any]]:
    """The YAML file, its publisher and its content."""
    possible = [p for kind, p in FORMATS.items() if format in ("auto", kind)]
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
