"""PANNs: Cnn14 and its decision-level variants, whose settings are known by the names of the published files.

Elsewhere config.json beside the weights has the constructor's arguments and `model_class`. The names of the classes are
read from `labels` in it, or from the publisher's class_labels_indices.csv beside it.
"""

import csv
import io
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.convert._files import file_record, table_beside
from ussfast.convert._keys import Keys
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError, InputError
from ussfast.models.detectors.cnn14 import Cnn14Config
from ussfast.models.detectors.log_mel import LogMelConfig, mel_bands
from ussfast.models.detectors.presets import CNN14, numbered
from ussfast.plain import read_json

JSON, CSV = "config.json", "class_labels_indices.csv"
MOST_CSV = 1 << 20  # bytes
POOLING = {"Cnn14": "clip", "Cnn14_16k": "clip", "Cnn14_DecisionLevelMax": "max", "Cnn14_DecisionLevelAvg": "mean"}
# Published files are called like this, with the score behind it: Cnn14_mAP=0.431.pth
PRESETS = {"Cnn14": "cnn14", "Cnn14_16k": "cnn14-16k", "Cnn14_DecisionLevelMax": "cnn14-dlmax"}
FIXED = ("spectrogram_extractor.stft.conv_real.weight", "spectrogram_extractor.stft.conv_imag.weight")
BANDS = "logmel_extractor.melW"


@dataclass(frozen=True)
class Settings:
    """front, pooling: as in Cnn14Config; classes, labels: if they are given; source: files for the record."""

    front: LogMelConfig
    pooling: Any
    classes: int | None
    labels: tuple[str, ...]
    source: dict[str, Any]


def belongs(path: Path) -> bool:
    """Whether a file of weights is one of these, by its name or the config.json beside it."""
    if (beside := table_beside(path, JSON)) is not None:
        return beside.get("model_class") in list(POOLING)
    return _published(path) is not None


def find_settings(path: Path) -> Settings:
    """The settings that belong to a file of weights; CheckpointError if there are none, or they do not fit."""
    beside, names = path.parent / JSON, path.parent / CSV
    labels: tuple[str, ...] = ()
    source: dict[str, Any] = {}
    if names.is_file():
        labels, source = read_labels(names), {"labels": file_record(names)}
    if not beside.is_file():
        name = _published(path)
        if name is None:
            raise CheckpointError(
                f"{path}: not called like the published files ({', '.join(f'{n}_mAP=...pth' for n in PRESETS)}), so it "
                f"needs a {JSON} beside it: model_class ({', '.join(POOLING)}) and the constructor's arguments"
            )
        published = CNN14[name]
        return Settings(published.front, published.pooling, len(published.labels), labels, source)
    try:
        found = read_config(read_json(beside))
    except InputError as error:
        raise CheckpointError(f"{beside}: {error}") from None
    source = {"config": file_record(beside)} | ({} if found.labels else source)
    return replace(found, labels=found.labels or labels, source=source)


def _published(path: Path) -> str | None:
    return PRESETS.get(path.stem.partition("_mAP=")[0])


def read_config(data: Any) -> Settings:
    """Settings from the constructor's arguments under their own names."""
    table = Table(data, "config")
    front = LogMelConfig(
        sample_rate=table.get("sample_rate", int),
        n_fft=table.get("window_size", int),
        hop=table.get("hop_size", int),
        mels=table.get("mel_bins", int),
        fmin=table.get("fmin", float),
        fmax=table.get("fmax", float),
    )
    labels = tuple(table.list_of("labels", str)) if "labels" in table.data else ()
    pooling = table.choice("model_class", POOLING)
    return Settings(front, pooling, table.get("classes_num", int, None), labels, {})


def read_labels(path: Path) -> tuple[str, ...]:
    """The column display_name of class_labels_indices.csv, whose column index counts from 0."""
    try:
        with path.open("rb") as file:
            data = file.read(MOST_CSV + 1)
        if len(data) > MOST_CSV:
            raise CheckpointError(f"{path}: more than {MOST_CSV} bytes, too many for labels")
        rows = list(csv.DictReader(io.StringIO(data.decode("utf-8-sig")), strict=True))
    except OSError as error:
        raise CheckpointError(f"{path}: not readable: {error.strerror}") from None
    except (ValueError, csv.Error) as error:
        raise CheckpointError(f"{path}: not readable as CSV: {error}") from None
    if [row.get("index") for row in rows] != [str(i) for i in range(len(rows))]:
        raise CheckpointError(f"{path}: not a list of labels: the column index does not count from 0")
    names = [row.get("display_name") for row in rows]
    if any(not isinstance(name, str) for name in names):
        raise CheckpointError(f"{path}: not a list of labels: it has no column display_name, or rows without it")
    return tuple(map(str, names))


def configure(settings: Settings, state: dict[str, Tensor]) -> Cnn14Config:
    """The configuration: sizes are those of the weights."""
    channels: list[int] = []
    while (weight := state.get(f"conv_block{len(channels) + 1}.conv1.weight")) is not None:
        channels.append(weight.shape[0] if weight.dim() else 0)
    out = state.get("fc_audioset.weight")
    classes = out.shape[0] if out is not None and out.dim() else 0
    if not channels or not classes:
        raise CheckpointError("the weights are not those of a Cnn14: conv_block1.conv1 or fc_audioset is missing")
    if settings.classes not in (None, classes):
        raise CheckpointError(f"the weights are for {classes} classes, the settings for {settings.classes}")
    if settings.labels and len(settings.labels) != classes:
        raise CheckpointError(f"the weights are for {classes} classes, but there are {len(settings.labels)} labels")
    return Cnn14Config(settings.labels or numbered(classes), settings.front, tuple(channels), settings.pooling)


def read_weights(state: dict[str, Tensor], config: Cnn14Config) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly; fixed ones may be missing, and must be those of the settings."""
    trained = {key: value for key, value in state.items() if key not in (*FIXED, BANDS)}
    check_fixed(state, config.front)
    keys = Keys(trained)
    out = _norm(keys, "bn0", "norm")
    for i in range(len(config.channels)):
        for j in range(2):
            theirs, ours = f"conv_block{i + 1}", f"blocks.{i}.{j}"
            out[f"{ours}.conv.weight"] = keys.take(f"{theirs}.conv{j + 1}.weight")
            out |= _norm(keys, f"{theirs}.bn{j + 1}", f"{ours}.norm")
    for theirs, ours in (("fc1", "hidden"), ("fc_audioset", "out")):
        for kind in ("weight", "bias"):
            out[f"{ours}.{kind}"] = keys.take(f"{theirs}.{kind}")
    keys.finish("Cnn14")
    return out


def _norm(keys: Keys, theirs: str, ours: str) -> dict[str, Tensor]:
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return {f"{ours}.{kind}": keys.take(f"{theirs}.{kind}") for kind in kinds}


def check_fixed(state: dict[str, Tensor], front: LogMelConfig) -> None:
    """CheckpointError where transforms that came with the weights are not those that the settings mean."""
    bins = front.n_fft // 2 + 1
    shapes = dict.fromkeys(FIXED, (bins, 1, front.n_fft)) | {BANDS: (bins, front.mels)}
    for key, shape in shapes.items():
        found = state.get(key)
        if found is None:
            continue
        # Made only for weights that have as much: settings alone would make it as large as they say.
        wanted = None
        if found.shape == shape:
            wanted = mel_bands(front) if key == BANDS else _transform(key, front.n_fft)
        if wanted is None or not (found - wanted.double()).abs().max() <= 1e-3 * wanted.abs().max():
            raise CheckpointError(f"{key} is not that of the settings: another sample rate, window, or range of mels")


def _transform(key: str, n_fft: int) -> Tensor:
    """One of FIXED, float64 [bins, 1, n_fft]."""
    angles = torch.arange(n_fft // 2 + 1, dtype=torch.float64)[:, None] * torch.arange(n_fft)
    angles = (angles % n_fft) * (2 * torch.pi / n_fft)
    wave = angles.cos() if key == FIXED[0] else -angles.sin()
    return (wave * torch.hann_window(n_fft, dtype=torch.float64))[:, None]
