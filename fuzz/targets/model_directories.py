"""Model directories of every architecture, changed: what loads separates, to finite sounds, within bounds."""

import hashlib
import json
import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from tiny import CAUSAL, RATE, STACK, STEREO, STFT, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_directory

from fuzz.mutate import ODD_FLOATS, changed
from fuzz.trees import changed_tree, written
from ussfast import Separator
from ussfast.checkpoints import names
from ussfast.checkpoints.store import read_info
from ussfast.models.tflocoformer import TfLocoformerConfig

SECONDS, MIB = 20.0, 768

Parts = tuple[dict, dict[str, torch.Tensor]]


def prepare(folder: Path) -> list[Parts]:
    plain = TfLocoformerConfig(sample_rate=RATE, stft=STFT, sources=2, stack=STACK)
    found = []
    for number, config in enumerate((TUSS, CAUSAL, UNCONDITIONAL, STEREO, TUSS_SFC, plain)):
        directory = tiny_directory(folder, config, number)
        table = json.loads((directory / "config.json").read_text())
        found.append((table, safetensors.torch.load_file(directory / "model.safetensors")))
    return found


def one(context: list[Parts], rng: random.Random, folder: Path) -> None:
    table, tensors = rng.choice(context)
    kind = rng.random()
    data = safetensors.torch.save(_changed_weights(tensors, rng) if kind < 0.3 else tensors)
    if kind > 0.9:
        data = changed(data, rng, 3)
    table = table | {"weights": table["weights"] | {"sha256": hashlib.sha256(data).hexdigest()}}
    if kind > 0.2:
        how = rng.random()
        if how < 0.5:
            table = table | {"config": _other_settings(table["config"], rng)}
        elif how < 0.9:
            table = table | {"config": changed_tree(table["config"], rng)}
        else:
            table = changed_tree(table, rng)
    (folder / "model.safetensors").write_bytes(data)
    (folder / "config.json").write_bytes(written(table, rng))
    glance = names.glance(folder, "it")
    separator = Separator(str(folder))
    info = read_info(folder)
    # What is left out has a default that a glance does not know.
    assert glance is None or (glance.prompts, glance.labels) == (info.prompts, info.labels)
    assert info == separator.info and separator.sample_rate == info.sample_rate
    json.dumps(dict(info.source), allow_nan=False)
    asked = [rng.choice(info.prompts) for _ in range(rng.randint(1, 3))] if info.prompts else []
    rate, channels = rng.choice((info.sample_rate, 8000, 44100)), separator.engine.model.channels
    audio = noise(channels, max(2, rate // 10), rng.randrange(100))
    got = separator.separate(audio, rate, prompts=asked)
    assert got.stems.shape == (len(asked) or len(info.labels), *audio.shape)
    assert np.isfinite(got.stems).all()


# What may be other than it is with the same weights, mostly.
SETTINGS: dict[str, tuple] = {
    "hop": (1, 2, 3, 8, 16, 32, 63, 64, 100, 128),
    "n_fft": (2, 3, 4, 8, 16, 17, 126, 127, 128, 129, 256, 1024, 4096, 16384),
    "window_length": (1, 2, 63, 64, 100, 127, 128, 256),
    "window": ("hann", "sqrt_hann"),
    "padding": ("zero", "reflect"),
    "normalize": (None, "default", "window"),
    "drop_last_frame": (True, False),
    "sample_rate": (1000, 7999, 8001, 16000, 44100, 48000, 384000),
    "segment_seconds": (0.05, 0.1, 1.0, 3600.0),
    "eps": (0, 1e-15, 1e-5, 1.0),
    "enabled": (True, False),
    "domain": ("waveform", "stft"),
    "groups": (1, 2, 4, 8),
    "heads": (1, 2, 4, 8),
    "order": ("ft", "tf"),
    "norm": ("rms_group_norm", "layer_norm"),
    "stride": (1, 2, 3),
    "release_db": (1e-3, 1.0, 1e5),
    "repeats": (1, 4),
    "labels": (["a", "b"], ["a", "b", "c"], ["../a", "b/c", "\u00e9"]),
    "bias": ("learned", "stored"),
}


def _other_settings(config: dict, rng: random.Random) -> dict:
    config = json.loads(json.dumps(config))
    places = [(table, key) for table in _tables(config) for key in table if key in SETTINGS]
    for table, key in rng.sample(places, rng.randint(1, 3)):
        table[key] = rng.choice(SETTINGS[key])
    return config


def _tables(tree: object) -> Iterator[dict]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _tables(child)


def _changed_weights(tensors: dict[str, torch.Tensor], rng: random.Random) -> dict[str, torch.Tensor]:
    tensors = {key: value.clone() for key, value in tensors.items()}
    key = rng.choice(list(tensors))
    value = tensors[key]
    match rng.randrange(7):
        case 0:
            tensors[key] = value.to(rng.choice((torch.float16, torch.float64, torch.int32, torch.float8_e4m3fn)))
        case 1:
            del tensors[key]
        case 2:
            tensors[rng.choice((*tensors, "x" * 300, "a\nb"))] = value.clone()
        case 3:
            tensors[key] = value[: rng.randrange(len(value) + 1)].clone()
        case 4:
            tensors[key] = value * rng.choice((0, -1, 1e3, 1e10, 1e20, 1e38))
        case _:
            value.view(-1)[rng.randrange(value.numel())] = rng.choice((*ODD_FLOATS, 1e38))
    return tensors
