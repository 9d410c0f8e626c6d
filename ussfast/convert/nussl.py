"""Checkpoints of nussl 1.1: ChimeraNet, and its halves that only embed or only make masks.

All is in one pickle, tensors and settings, and among the settings are objects of nussl's own classes. Those are never
looked for: what stands in for them keeps what the file says of them, and does nothing.
"""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ussfast.convert._files import checked, unpickled
from ussfast.convert._keys import Keys
from ussfast.convert._nussl_modules import activations, read_modules
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError
from ussfast.models.chimera import ChimeraConfig
from ussfast.stft import StftConfig

MARK = b"nussl_version"  # in the pickle of every one
HEAD = 1 << 24  # bytes of a pickle that are looked at for it
FRAMES = 400  # of the excerpts in training
WINDOW_SECONDS = 0.032
# Means of losses are numbers of NumPy's, which nobody needs here.
NUMPY = (
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")),
)
FREE = ("PermutationInvariantLoss", "CombinationInvariantLoss")  # losses that leave the order of sources open
NAMES = ("sources", "source_names", "source_labels", "group_names", "labels")  # entries that may name the sources
WINDOWS = {"sqrt_hann": "sqrt_hann", "hann": "hann"}
MOST_WALKED = 10_000  # values of the settings that are looked through for names


class Inert:
    """Stands for an object of a class of nussl's (or NumPy's).

    args: of its constructor or function. state: what it was to be filled with.
    """

    args: tuple[Any, ...] = ()
    state: Any = None

    def __new__(cls, *args: Any) -> "Inert":
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state


def inert(name: str) -> type[Inert] | None:
    """A class that stands for what a pickle calls so; None for what is not nussl's."""
    return type(name, (Inert,), {}) if name.startswith("nussl.") or name in NUMPY else None


@dataclass(frozen=True)
class Settings:
    """path: of the checkpoint; weights: as they were in it; about: all else."""

    path: Path
    weights: Any
    about: Table
    source: dict[str, Any]


def belongs(path: Path) -> bool:
    """Whether a file of weights is one of these, by a name in its pickle."""
    try:
        if not zipfile.is_zipfile(path):
            with path.open("rb") as file:
                return MARK in file.read(HEAD)
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            if not names:
                return False
            with archive.open(names[0]) as inside:
                return MARK in inside.read(HEAD)
    except (OSError, ValueError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False


def find_settings(path: Path) -> Settings:
    """What is in a checkpoint; CheckpointError if it is none of nussl's."""
    about = unpickled(path, inert)
    if not isinstance(about, dict) or not isinstance(about.get("state_dict"), dict) or "metadata" not in about:
        raise CheckpointError(f"{path}: not a checkpoint of nussl: state_dict and metadata are needed")
    version = about["metadata"].get("nussl_version") if isinstance(about["metadata"], dict) else None
    source = {"nussl_version": version} if isinstance(version, str) and len(version) < 100 else {}
    return Settings(path, about["state_dict"], Table(about, "the checkpoint"), source)


def state(settings: Settings) -> dict[str, Tensor]:
    """The tensors, each once: a checkpoint has them under `layers.` and without that, or only so."""
    out: dict[str, Tensor] = {}
    for key, value in checked(dict(settings.weights), settings.path).items():
        short = key.removeprefix("layers.")
        other = out.get(short, value)
        if (other.shape, other.dtype) != (value.shape, value.dtype) or not other.allclose(value, 0, 0, equal_nan=True):
            raise CheckpointError(f"{settings.path}: {short} is there twice, with other numbers under layers.")
        out[short] = value
    return out


def configure(settings: Settings, weights: dict[str, Tensor]) -> ChimeraConfig:
    """The configuration of a network of these modules, connected in this way."""
    about, metadata = settings.about, settings.about.table("metadata")
    modules = read_modules(about.data.get("config", metadata.data.get("config")))
    rate = metadata.get("sample_rate", int)
    metadata.choice("num_channels", {1: 1}, 1)
    transform = _transform(metadata, rate)
    if modules.stack.get("num_features", int) != transform.bins:
        raise CheckpointError(
            f"{modules.stack.where}.num_features is {modules.stack.data['num_features']}, but the transform has "
            f"{transform.bins} bins"
        )
    names = _source_names(metadata) or ()
    made: dict[str, Any] = {"embedding": 0, "masks": modules.mask is not None}
    if modules.embedding is not None:
        made["embedding"] = modules.embedding.get("embedding_size", int)
        made["embedding_activation"] = activations(modules.embedding)
    if modules.mask is not None:
        made["sources"] = modules.mask.get("embedding_size", int)
        made["mask_activation"] = activations(modules.mask)
        losses = about.data.get("loss_dictionary", metadata.data.get("loss_dictionary"))
        fixed = not (isinstance(losses, dict) and losses.keys() & set(FREE))
        made["labels"] = names if fixed and len(names) == made["sources"] else ()
    elif names:
        made["sources"] = len(names)  # as many clusters; two if nothing is told
    return ChimeraConfig(
        sample_rate=rate,
        stft=transform,
        norm=modules.norm,
        cell=modules.stack.choice("rnn_type", {"lstm": "lstm", "gru": "gru"}, "lstm"),
        hidden=modules.stack.get("hidden_size", int),
        layers=modules.stack.get("num_layers", int),
        bidirectional=modules.stack.get("bidirectional", bool),
        dropout=modules.stack.get("dropout", float, 0.0),
        segment_seconds=FRAMES * transform.hop / max(1, rate),
        **made,
    )


def read_weights(state: dict[str, Tensor], config: ChimeraConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly."""
    keys = Keys(state)
    out: dict[str, Tensor] = {}
    if config.norm == "batch":
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            out[f"norm.{kind}"] = keys.take(f"normalization.batch_norm.{kind}")
    for layer in range(config.layers):
        for direction in ("", "_reverse")[: 1 + config.bidirectional]:
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                name = f"rnn.{kind}_l{layer}{direction}"
                out[name] = keys.take(f"recurrent_stack.{name}")
    for head in ["embedding"] * bool(config.embedding) + ["mask"] * config.masks:
        for kind in ("weight", "bias"):
            out[f"{head}.{kind}"] = keys.take(f"{head}.linear.{kind}")
    keys.finish("ChimeraNet")
    return out


def _transform(metadata: Table, rate: int) -> StftConfig:
    """Of the named tuple (length, hop, window), with nussl's own choices where one is None."""
    given = metadata.data.get("stft_params")
    values = given.args if isinstance(given, Inert) else given
    if not isinstance(values, (tuple, list)) or len(values) < 3:
        raise CheckpointError(f"{metadata.where}.stft_params must be window_length, hop_length and window_type")
    table = Table(dict(zip(("window_length", "hop_length", "window_type"), values, strict=False)), "stft_params")
    usual = 1 << max(1, round(WINDOW_SECONDS * rate) - 1).bit_length()
    length = table.get("window_length", int, usual)
    hop = table.get("hop_length", int, length // 4)
    window = table.choice("window_type", WINDOWS | {None: "sqrt_hann"})
    return StftConfig(length, hop, length, window=window, normalize="window")


def _source_names(metadata: Table) -> tuple[str, ...] | None:
    """Names of the sources in their order, that of the alphabet, if a data set's settings tell them."""
    for which in ("train_dataset", "val_dataset"):
        for name, value in _walked(metadata.data.get(which)):
            if name in NAMES and isinstance(value, (list, tuple)) and value:
                words = {w for w in value if isinstance(w, str) and w.isprintable() and 0 < len(w) <= 100}
                if len(words) == len(value):
                    return tuple(sorted(words))
    return None


def _walked(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Entries of tables at any depth, also of those that objects were to be filled with."""
    waiting, count = [tree], 0
    while waiting and count < MOST_WALKED:
        value = waiting.pop(0)
        count += 1
        if isinstance(value, Inert):
            waiting += [value.state, *value.args]
        elif isinstance(value, dict):
            yield from value.items()
            waiting += value.values()
        elif isinstance(value, (list, tuple)):
            waiting += value
