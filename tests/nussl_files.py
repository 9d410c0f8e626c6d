"""Checkpoints as nussl saves them, with objects of classes that exist only while they are saved."""

import json
import sys
from collections import namedtuple
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from golden_io import settings, weights


@contextmanager
def classes() -> Iterator[SimpleNamespace]:
    """Classes that say of themselves that they are nussl's."""
    params = namedtuple("STFTParams", "window_length hop_length window_type", module="nussl.core.audio_signal")
    made: dict[str, Any] = {"STFTParams": params}
    modules = {name: ModuleType(name) for name in ("nussl", "nussl.core", "nussl.core.audio_signal")}
    modules |= {name: ModuleType(name) for name in ("nussl.datasets", "nussl.datasets.transforms")}
    modules["nussl.core.audio_signal"].STFTParams = params
    for name in ("Compose", "SumSources", "GetExcerpt"):
        made[name] = type(name, (), {"__module__": "nussl.datasets.transforms"})
        setattr(modules["nussl.datasets.transforms"], name, made[name])
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield SimpleNamespace(**made)
    finally:
        for name, old in before.items():
            if old is None:
                sys.modules.pop(name)
            else:
                sys.modules[name] = old


def filled(kind: type, **state: Any) -> Any:
    made = kind()
    vars(made).update(state)
    return made


def content(nussl: SimpleNamespace, names: tuple[str, ...] = ("vocals", "accompaniment"), **metadata: Any) -> dict:
    """What a trainer saves of `chimera_tiny`; names: of the sources, in the order of a data set's folder."""
    stft = settings("chimera_tiny")["stft"]
    excerpt = filled(nussl.GetExcerpt, excerpt_length=400, time_dim=1)
    groups = filled(nussl.SumSources, groupings=[["a", "b"], ["c"]], group_names=list(names))
    about = {
        "config": None,
        "nussl_version": "1.1.9",
        "stft_params": nussl.STFTParams(stft["window_length"], stft["hop_length"], stft["window_type"]),
        "sample_rate": stft["sample_rate"],
        "num_channels": 1,
        "train_dataset": {
            "name": "Mixes", "folder": "/data", "transforms": filled(nussl.Compose, transforms=[groups, excerpt]),
        },
        "optimizer": {"name": "Adam", "params": {"lr": 1e-3}},
        "trainer.state.epoch_history": {"train/loss": [np.float64(0.5), 0.25]},
    }  # fmt: skip
    published = {k: v.float() if v.is_floating_point() else v for k, v in weights("chimera_tiny").items()}
    return {
        "state_dict": published,
        "config": configuration(),
        "metadata": about | metadata,
        "loss_dictionary": {"L1Loss": {"weight": 1}},
    }


def configuration(change: Any = None) -> str:
    """The configuration as text; change: of its table, in place."""
    table = settings("chimera_tiny")["config"]
    table["modules"]["mask"]["module_snapshot"] = "class Embedding(nn.Module): ..."
    if change is not None:
        change(table)
    return json.dumps(table)


def save(path: Path, change: Any = None, zipped: bool = True, **options: Any) -> Path:
    """Writes a checkpoint; change: of (what is saved, the classes), in place."""
    with classes() as nussl:
        made = content(nussl, **options)
        if change is not None:
            change(made, nussl)
        torch.save(made, path, _use_new_zipfile_serialization=zipped)
    return path
