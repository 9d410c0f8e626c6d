"""What config.json of a model directory says: its format, strictly read, and the facts that users see."""

import dataclasses
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from ussfast.checkpoints.names import CONFIG, DETECTORS, EXPECTED, FORMAT, VERSION
from ussfast.errors import CheckpointError, InputError
from ussfast.models import config_from_dict
from ussfast.models.config import to_dict
from ussfast.plain import Checked, Name, Range, Word, from_dict, read_json, shown


@dataclasses.dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without its weights.

    Attributes:
        name: its own name; from `available`, the one that `resolve` takes.
        source: where the weights come from (url, file, sha256, ...), as the publisher or converter wrote it.
        sample_rate: Hz.
        parameters: their number, shared rotary frequencies included once, fixed tables left out.
        prompts: names of the prompts in the checkpoint; empty for an unconditional model.
        labels: names of an unconditional model's sources, source-1, ... where their order is free, or of what
            a detector knows; else empty.
            A model without prompts and labels that detects nothing takes vectors and knows none of its own.
        path: its directory; None for a model that is not from a file.
        config: configuration dataclass of the architecture.
        fingerprint: SHA-256 of configuration and weights: two models with the same one separate alike, whatever they
            are called and wherever they lie. Empty for a model that is not from a file.
    """

    name: str
    architecture: str
    license: str
    source: Mapping[str, Any]
    sample_rate: int
    parameters: int
    prompts: tuple[str, ...]
    labels: tuple[str, ...]
    path: Path | None
    config: Any
    fingerprint: str = ""

    @property
    def detects(self) -> bool:
        """Whether it says what is in a recording, and separates nothing."""
        return self.architecture in DETECTORS


@dataclasses.dataclass(frozen=True)
class WeightsFile(Checked):
    """The "weights" table of config.json; dtype is that of the stored parameters."""

    file: Name
    sha256: str
    dtype: str


@dataclasses.dataclass(frozen=True)
class ModelDirectory(Checked):
    """The entries of config.json."""

    format: str
    version: int
    name: Name
    license: Annotated[str, Word(1000)]
    source: dict
    architecture: str
    config: dict
    parameters: Annotated[int, Range(0, 1e12)]
    weights: WeightsFile


def describe(config: Any, architecture: str, parameters: int, name: str) -> ModelInfo:
    """The ModelInfo of a model in memory; licence and source are left unknown."""
    prompts = tuple(getattr(config, "prompts", ()))
    labels: tuple[str, ...] = ()
    if not prompts:  # without sources either, prompts are vectors
        count = getattr(config, "sources", 0)
        labels = getattr(config, "labels", ()) or tuple(f"source-{i + 1}" for i in range(count))
    return ModelInfo(
        name=name,
        architecture=architecture,
        license="unknown",
        source={},
        sample_rate=config.sample_rate,
        parameters=parameters,
        prompts=prompts,
        labels=labels,
        path=None,
        config=config,
    )


def read_info(directory: str | os.PathLike[str]) -> ModelInfo:
    """What a model directory's config.json says; CheckpointError if it is not one that this ussfast reads."""
    return read(Path(directory))[0]


def read(directory: Path) -> tuple[ModelInfo, WeightsFile]:
    """The facts and the weights file of a model directory; raises like read_info."""
    path = directory / CONFIG
    if not os.path.isdir(directory):
        raise CheckpointError(f"{directory}: no such directory; a model is {EXPECTED}")
    if not os.path.isfile(path):
        raise CheckpointError(f"{directory}: {_without_config(directory)}")
    try:
        data = read_json(path)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    found = (data.get("format"), data.get("version")) if isinstance(data, dict) else (None, None)
    if found != (FORMAT, VERSION):
        what = f"{shown(found[0])}, version {shown(found[1])}" if found[0] else _without_config(directory)
        raise CheckpointError(f"{path}: {what}; this ussfast reads {FORMAT!r}, version {VERSION}")
    try:
        content = from_dict(ModelDirectory, data, "the file")
        config = config_from_dict(content.architecture, content.config)
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    info = describe(config, content.architecture, content.parameters, content.name)
    mark = fingerprint(content.architecture, config, content.weights.sha256)
    info = dataclasses.replace(
        info, license=content.license, source=content.source, path=directory, fingerprint=mark
    )
    return info, content.weights


def fingerprint(architecture: str, config: Any, weights: str) -> str:
    """See ModelInfo. weights: SHA-256 of their file, which loading checks."""
    facts = json.dumps([architecture, to_dict(config), weights.lower()], sort_keys=True)
    return hashlib.sha256(facts.encode()).hexdigest()


def fingerprint_of(info: ModelInfo, tensors: Mapping[str, Any]) -> str:
    """That of the info; for a model in memory one of its own, of configuration and weights.

    tensors: its state dictionary, float32.
    """
    if info.fingerprint:
        return info.fingerprint
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors.items()):
        digest.update(f"{key} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().numpy())
    return fingerprint(info.architecture, info.config, digest.hexdigest())


def _without_config(directory: Path) -> str:
    published = ("hparams.yaml", "config.yaml", "merged_config.yaml", "checkpoints", "*.pth", "*.ckpt", "*.pt")
    if any(next(directory.glob(pattern), None) for pattern in published):
        return f"looks like a published checkpoint: run 'ussfast convert {directory} DESTINATION' first"
    return f"not a ussfast model directory ({CONFIG} of ours is missing)"
