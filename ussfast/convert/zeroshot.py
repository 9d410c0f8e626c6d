"""Checkpoints of the zero-shot separation project: the ASP U-Net, without the tagger that lies in the same file."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ussfast.convert._files import file_record
from ussfast.convert._keys import Keys
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError, InputError
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.plain import read_json, shown
from ussfast.stft import StftConfig

JSON = "config.json"
# Fixed tables of the transform, and the model that makes the vectors.
IGNORED = ("stft.", "istft.", "at_model.")
HOP, RATE = 320, 32000


@dataclass(frozen=True)
class Settings:
    """table: the constructor's arguments as far as they are given; source: their file for the record."""

    table: Table
    source: dict[str, Any]


def belongs(path: Path) -> bool:
    """Whether a file of weights is called like the published one."""
    return path.stem.startswith("zeroshot_asp")


def find_settings(path: Path) -> Settings:
    """What config.json beside a file of weights says, if it is there; CheckpointError if it cannot be."""
    beside = path.parent / JSON
    if not beside.is_file():
        return Settings(Table({}, "config"), {})
    try:
        table = Table(read_json(beside), "config")
        table.choice("channels", {1: 1}, 1)
    except InputError as error:
        raise CheckpointError(f"{beside}: {error}") from None
    return Settings(table, {"config": file_record(beside)})


def configure(settings: Settings, state: dict[str, Tensor]) -> AspUnetConfig:
    """The configuration by the shapes of the weights; what `config.json` says of sizes has to agree.

    Of what no weights tell, published values are the default: `hop_samples` 320 and `sample_rate` 32000.
    """
    table, depth = settings.table, 0
    while f"encoder_block{depth + 1}.conv_block.conv1.weight" in state:
        depth += 1
    blocks = [f"encoder_block{i + 1}.conv_block" for i in range(depth)]
    if not depth or not {"bn0.weight", f"conv_block{depth + 1}.emb1.weight"} <= state.keys():
        raise CheckpointError("no weights of an ASP U-Net: bn0, encoder_block1 and the block in the middle are needed")
    window = 2 * (state["bn0.weight"].shape[0] - 1)
    center, latent_dim = state[f"conv_block{depth + 1}.emb1.weight"].shape
    config = AspUnetConfig(
        sample_rate=table.get("sample_rate", int, RATE),
        stft=StftConfig(window, table.get("hop_samples", int, HOP), window, window="hann", padding="reflect"),
        latent_dim=latent_dim,
        encoder_channels=tuple(state[f"{block}.conv1.weight"].shape[0] for block in blocks),
        center_channels=center,
    )
    found = {
        "latent_dim": config.latent_dim,
        "window_size": window,
        "center_channels": config.center_channels,
        "encoder_channels": list(config.encoder_channels),
    }
    for key, value in found.items():
        if (said := table.data.get(key, value)) != value:
            raise CheckpointError(f"config.{key} is {shown(said)}, the weights have {value}")
    return config


def read_weights(state: dict[str, Tensor], config: AspUnetConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly, but for IGNORED."""
    keys = Keys({key: value for key, value in state.items() if not key.startswith(IGNORED)})
    out: dict[str, Tensor] = {}

    def norm(ours: str, theirs: str) -> None:
        for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            out[f"{ours}.{kind}"] = keys.take(f"{theirs}.{kind}")

    def layer(ours: str, theirs: str, number: int) -> None:
        out[f"{ours}.weight"] = keys.take(f"{theirs}.conv{number}.weight")
        norm(f"{ours}.norm", f"{theirs}.bn{number}")
        for kind in ("weight", "bias"):
            out[f"{ours}.emb.{kind}"] = keys.take(f"{theirs}.emb{number}.{kind}")

    def block(ours: str, theirs: str) -> None:
        layer(f"{ours}.first", theirs, 1)
        layer(f"{ours}.second", theirs, 2)

    depth = len(config.encoder_channels)
    norm("bin_norm.norm", "bn0")
    for i in range(depth):
        block(f"encoder.{i}", f"encoder_block{i + 1}.conv_block")
        layer(f"decoder.{i}.up", f"decoder_block{i + 1}", 1)
        block(f"decoder.{i}.block", f"decoder_block{i + 1}.conv_block2")
    block("center", f"conv_block{depth + 1}")
    block("after", "after_conv_block1")
    for kind in ("weight", "bias"):
        out[f"out.{kind}"] = keys.take(f"after_conv2.{kind}")
    keys.finish("ASP U-Net")
    return out
