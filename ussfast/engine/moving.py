"""Separators for elsewhere: on another device, in another process, as a copy."""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self, TypeVar, cast

import numpy as np
import safetensors.torch
import torch

from ussfast.checkpoints import names
from ussfast.checkpoints import store as checkpoint
from ussfast.checkpoints.info import ModelInfo, read
from ussfast.engine.backends.networks import Exportedly, open_exported
from ussfast.engine.settings import Settings, pick_device
from ussfast.errors import CheckpointError, UssfastError
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.models import SpectralModel
from ussfast.prompts.bank import Kind, Prompt
from ussfast.prompts.origin import Origin

T = TypeVar("T")

# Attributes of a separator that others follow from, or that `Parts` has.
OWN = ("info", "settings", "default_prompts", "engine", "prompts")


@dataclass(frozen=True)
class Parts:
    """All that makes a separator of a model; nothing in it belongs to a process or a device.

    made: prompts that are not the model's own: name, the vector as safetensors, kind and origin.
    more: attributes that a subclass added, and the detector.
    """

    settings: Settings
    prompts: tuple[str, ...]
    policy: SegmentPolicy
    made: tuple[tuple[str, bytes, Kind, Origin | None], ...]
    more: dict[str, Any]

    @classmethod
    def of(cls, separator: Any) -> "Parts":
        bank = separator.prompts.values()
        made = tuple((p.name, _bytes({"vector": p.vector}), p.kind, p.origin) for p in bank if p.kind != "class")
        more = {name: value for name, value in vars(separator).items() if name not in OWN}
        return cls(separator.settings, separator.default_prompts, separator.policy, made, more)

    def give(self, separator: Any) -> None:
        """To a separator that has model and settings already."""
        separator.default_prompts, separator.policy = self.prompts, self.policy
        for name, data, kind, origin in self.made:
            vector = safetensors.torch.load(data)["vector"].to(separator.engine.device)
            separator.prompts.add(Prompt(name, vector, kind, origin))
        vars(separator).update(self.more)


@dataclass(frozen=True)
class StoredModel:
    """Weights that stay where they are: places that a model may be found in, of these weights and no others."""

    info: ModelInfo
    places: tuple[str, ...]
    sha256: str

    def load(self) -> tuple[SpectralModel, ModelInfo]:
        """CheckpointError where none of the places has the model."""
        why: list[str] = []
        for place in self.places:
            try:
                directory = checkpoint.resolve(place)
                if read(directory)[1].sha256 == self.sha256:
                    network, info = checkpoint.load_model(directory)
                    return network, replace(self.info, path=info.path)
                why.append(f"{place}: has other weights now")
            except UssfastError as error:
                why.append(str(error))
        raise CheckpointError(
            f"a separator that was pickled needs the model that it had: {'; '.join(why)}; or pickle one made by "
            "Separator.from_model, whose weights go along"
        )


@dataclass(frozen=True)
class SentModel:
    """Weights that go along, as safetensors."""

    info: ModelInfo
    data: bytes

    def load(self) -> tuple[SpectralModel, ModelInfo]:
        return checkpoint.fill(self.info.config, safetensors.torch.load(self.data), self.info.name), self.info


@dataclass(frozen=True)
class QuicklySentModel:
    """Weights that go along as they lie in memory: of each its bytes, dtype and shape."""

    info: ModelInfo
    weights: dict[str, tuple[np.ndarray, torch.dtype, torch.Size]]

    @classmethod
    def of(cls, network: SpectralModel, info: ModelInfo) -> Self:
        flat = {name: weight.detach().cpu().flatten() for name, weight in network.state_dict().items()}
        weights = {
            name: (flat[name].view(torch.uint8).numpy(), weight.dtype, weight.shape)
            for name, weight in network.state_dict().items()
        }
        return cls(replace(info, path=None), weights)

    def load(self) -> tuple[SpectralModel, ModelInfo]:
        tensors = {
            name: torch.from_numpy(raw).view(dtype).reshape(shape) for name, (raw, dtype, shape) in self.weights.items()
        }
        return checkpoint.fill(self.info.config, tensors, self.info.name), self.info


@dataclass(frozen=True)
class ExportedModel:
    """A directory of `ussfast.export` that stays where it is."""

    directory: str
    settings: Settings

    def load(self) -> tuple[SpectralModel, ModelInfo]:
        return open_exported(Path(self.directory), self.settings)


def packed(network: SpectralModel, info: ModelInfo, settings: Settings) -> StoredModel | SentModel | ExportedModel:
    """A model for elsewhere: by where it is on disk, if its very weights are still there, or else with them."""
    if isinstance(network, Exportedly):
        return ExportedModel(os.path.abspath(str(info.path)), settings)
    stored = _stored(network, info)
    return SentModel(replace(info, path=None), _bytes(network.state_dict())) if stored is None else stored


def _bytes(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save({k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()})


def _stored(network: SpectralModel, info: ModelInfo) -> StoredModel | None:
    path = info.path
    if path is None:
        return None
    try:
        sha256 = read(path)[1].sha256
        there = checkpoint.load_model(path)[0]
    except UssfastError:
        return None
    mine, theirs = network.state_dict(), there.state_dict()
    if there.config != network.config or not all(torch.equal(mine[k].cpu(), theirs[k]) for k in theirs):
        return None
    places = [path.name if path.parent == names.EMBEDDED else os.path.abspath(path)]
    repo, snapshots, revision = ("", "", "", *path.parts)[-3:]
    if snapshots == "snapshots" and repo.startswith("models--"):  # in the Hub's cache, which others have elsewhere
        places.append(f"{repo.removeprefix('models--').replace('--', '/', 1)}@{revision}")
    return StoredModel(info, tuple(places), sha256)


def moved(separator: T, device: str) -> T:
    """See `Separator.to`."""
    one: Any = separator
    there, here = pick_device(device), one.engine.device
    if there.type == here.type and there.index in (None, here.index):
        return separator
    network, parts = one.engine.model, Parts.of(one)
    settings = replace(parts.settings, device=str(there))
    if isinstance(network, Exportedly):
        twin = open_exported(one.info.path, settings)[0]
    else:
        twin = checkpoint.fill(network.config, network.state_dict(), one.info.name)
    return _made(type(separator), twin, one.info, replace(parts, settings=settings))


def reduced(separator: Any) -> tuple[Any, ...]:
    """What `pickle` and `copy` make a separator of: a model from a directory or the Hub by its place, unless its files
    have changed; one in memory with its weights."""
    model = packed(separator.engine.model, separator.info, separator.settings)
    return _arrived, (type(separator), model, Parts.of(separator))


def sent(separator: Any) -> Callable[[], Any]:
    """What makes the separator where it is called, to be pickled for another process: in a fifth of the time that the
    separator itself takes, for other threads of Python hardly run meanwhile."""
    model = QuicklySentModel.of(separator.engine.model, separator.info)
    return partial(_arrived, type(separator), model, Parts.of(separator))


def _arrived(kind: type[T], model: StoredModel | SentModel | QuicklySentModel | ExportedModel, parts: Parts) -> T:
    return _made(kind, *model.load(), parts)


def _made(kind: type[T], network: SpectralModel, info: ModelInfo, parts: Parts) -> T:
    separator = kind.__new__(kind)
    cast(Any, separator)._set_up(network, info, (), parts.settings)
    parts.give(separator)
    return separator
