"""HTS-AT (ST-SED): Lightning files with keys under `sed_model.`, or flat ones; their sizes are those of the weights.

Checkpoints of a whole ZeroShotASP have the detector in them as well, under `at_model.sed_model.`.

Where the front end or the shape of the image are not the published ones, config.json beside the weights has the
constructor's arguments. The names of the classes are read as for the PANNs.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ussfast.convert._files import file_record, table_beside
from ussfast.convert._keys import Keys
from ussfast.convert._yaml import Table
from ussfast.convert.panns import BANDS, CSV, FIXED, JSON, check_fixed, read_labels
from ussfast.errors import CheckpointError, InputError
from ussfast.models.detectors.htsat import HtsatConfig
from ussfast.models.detectors.log_mel import LogMelConfig
from ussfast.models.detectors.presets import numbered
from ussfast.models.detectors.swin import position_index, shift_mask
from ussfast.plain import read_json

PREFIX, CARRIED = "sed_model.", "at_model.sed_model."
MOST_STAGES, MOST_BLOCKS = 8, 1000


@dataclass(frozen=True)
class Settings:
    """front, image, window: as in HtsatConfig; given: fields of it that the weights must agree with."""

    front: LogMelConfig
    image: int
    given: dict[str, Any]
    classes: int | None
    labels: tuple[str, ...]
    source: dict[str, Any]


def belongs(path: Path) -> bool:
    """Whether a file of weights is one of these, by its name or the config.json beside it."""
    if (beside := table_beside(path, JSON)) is not None:
        return any(name.startswith("htsat_") for name in beside)
    return path.stem.lower().startswith(("htsat_", "hts-at"))


def find_settings(path: Path) -> Settings:
    """The settings that belong to a file of weights: published ones if there are no others."""
    beside, names = path.parent / JSON, path.parent / CSV
    found, source = read_config({}), {}
    if beside.is_file():
        try:
            found = read_config(read_json(beside))
        except InputError as error:
            raise CheckpointError(f"{beside}: {error}") from None
        source["config"] = file_record(beside)
    if names.is_file() and not found.labels:
        found, source = replace(found, labels=read_labels(names)), source | {"labels": file_record(names)}
    return replace(found, source=source)


def read_config(data: Any) -> Settings:
    """Settings from the constructor's arguments under their own names; those left out are as published."""
    table = Table(data, "config")
    table.choice("enable_tscam", {True: True}, True)
    table.choice("enable_repeat_mode", {False: False}, False)
    front = LogMelConfig(
        sample_rate=table.get("sample_rate", int, 32000),
        n_fft=table.get("window_size", int, 1024),
        hop=table.get("hop_size", int, 320),
        mels=table.get("mel_bins", int, 64),
        fmin=table.get("fmin", float, 50.0),
        fmax=table.get("fmax", float, 14000.0),
    )
    given: dict[str, Any] = {}
    for ours, theirs in (("dim", "htsat_dim"), ("patch", "htsat_patch_size"), ("window", "htsat_window_size")):
        if theirs in table.data:
            given[ours] = table.get(theirs, int)
    for ours, theirs in (("depths", "htsat_depth"), ("heads", "htsat_num_head")):
        if theirs in table.data:
            given[ours] = tuple(table.list_of(theirs, int))
    if "htsat_stride" in table.data:
        strides = set(table.list_of("htsat_stride", int))
        if strides != {given.setdefault("patch", min(strides, default=0))}:
            raise CheckpointError(f"config.htsat_stride must be the size of a patch, got {sorted(strides)}")
    labels = tuple(table.list_of("labels", str)) if "labels" in table.data else ()
    image, classes = table.get("htsat_spec_size", int, 256), table.get("classes_num", int, None)
    return Settings(front, image, given, classes, labels, {})


def configure(settings: Settings, state: dict[str, Tensor]) -> HtsatConfig:
    """The configuration: what the weights say goes without saying."""
    keys = _own(state).state

    def size(name: str, axis: int) -> int:
        found = keys.get(name)
        if found is None or found.dim() <= axis:
            raise CheckpointError(f"the weights are not those of an HTS-AT: {name} is missing, or of another kind")
        return found.shape[axis]

    classes = size("tscam_conv.weight", 0)
    if settings.classes not in (None, classes):
        raise CheckpointError(f"the weights are for {classes} classes, the settings for {settings.classes}")
    if settings.labels and len(settings.labels) != classes:
        raise CheckpointError(f"the weights are for {classes} classes, but there are {len(settings.labels)} labels")
    table = "layers.{}.blocks.{}.attn.relative_position_bias_table"
    depths = [
        next((i for i in range(MOST_BLOCKS) if table.format(stage, i) not in keys), MOST_BLOCKS)
        for stage in range(MOST_STAGES)
    ]
    stages = next((i for i, depth in enumerate(depths) if not depth), MOST_STAGES)
    found: dict[str, Any] = {
        "dim": size("patch_embed.proj.weight", 0),
        "patch": size("patch_embed.proj.weight", 2),
        "window": (round(size(table.format(0, 0), 0) ** 0.5) + 1) // 2,
        "depths": tuple(depths[:stages]),
        "heads": tuple(size(table.format(stage, 0), 1) for stage in range(stages)),
    }
    for name, value in settings.given.items():
        if found[name] != value:
            raise CheckpointError(f"the weights are of {name} {found[name]}, the settings of {value}")
    return HtsatConfig(settings.labels or numbered(classes), settings.front, settings.image, **found)


def _own(state: dict[str, Tensor]) -> Keys:
    """The tensors of the detector, which may lie in a checkpoint of a separator that carries it along."""
    inside = {key: value for key, value in state.items() if key.startswith(CARRIED)}
    return Keys(inside or state, CARRIED, PREFIX)


def read_weights(state: dict[str, Tensor], config: HtsatConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly; fixed ones may be missing, and must be those of the configuration."""
    keys = _own(state)
    check_fixed(keys.state, config.front)
    keys.asked |= keys.state.keys() & {*FIXED, BANDS}
    out: dict[str, Tensor] = {}

    def both(ours: str, theirs: str, *kinds: str) -> None:
        for kind in kinds or ("weight", "bias"):
            out[f"{ours}.{kind}"] = keys.take(f"{theirs}.{kind}")

    both("norm", "bn0", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    both("patch", "patch_embed.proj")
    out["patch.weight"] = out["patch.weight"].flatten(1) if out["patch.weight"].dim() == 4 else out["patch.weight"]
    both("patch_norm", "patch_embed.norm")
    for stage, depth in enumerate(config.depths):
        across = (config.image // config.patch) >> stage
        window = min(config.window, across)
        for index in range(depth):
            ours, theirs = f"swin.stages.{stage}.{index}", f"layers.{stage}.blocks.{index}"
            for mine, name in (("norm1", "norm1"), ("attention.qkv", "attn.qkv"), ("attention.proj", "attn.proj"),
                               ("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):  # fmt: skip
                both(f"{ours}.{mine}", f"{theirs}.{name}")
            out[f"{ours}.attention.table"] = keys.take(f"{theirs}.attn.relative_position_bias_table")
            _check(keys, f"{theirs}.attn.relative_position_index", position_index(window))
            if index % 2 and across > window:
                _check(keys, f"{theirs}.attn_mask", shift_mask(across, window, window // 2))
        if stage + 1 < len(config.depths):
            both(f"swin.mergings.{stage}.norm", f"layers.{stage}.downsample.norm")
            out[f"swin.mergings.{stage}.reduction.weight"] = keys.take(f"layers.{stage}.downsample.reduction.weight")
    both("swin.norm", "norm")
    both("out", "tscam_conv")
    for unused in ("head.weight", "head.bias"):  # there in every file, and used by none: the token-semantic head is
        keys.take(unused)
    keys.finish("HTS-AT")
    return out


def _check(keys: Keys, name: str, wanted: Tensor) -> None:
    """CheckpointError unless that stored table is the one that we make ourselves; of missing ones `finish` tells."""
    found = keys.take(name)
    if name in keys.state and not (found.shape == wanted.shape and (found == wanted).all()):
        raise CheckpointError(f"{name} is not that of the settings: another image, or other windows")
