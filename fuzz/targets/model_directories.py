"""Model directories of every architecture, changed: what loads separates, to finite sounds, within bounds."""

import json
import random
from pathlib import Path

import numpy as np
from tiny import CAUSAL, RATE, STACK, STEREO, STFT, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_directory

from fuzz.directories import Parts, read_parts, write_changed
from ussfast import Separator
from ussfast.checkpoints import names
from ussfast.checkpoints.store import read_info
from ussfast.models.tflocoformer import TfLocoformerConfig

SECONDS, MIB = 20.0, 768


def prepare(folder: Path) -> list[Parts]:
    plain = TfLocoformerConfig(sample_rate=RATE, stft=STFT, sources=2, stack=STACK)
    found = []
    for number, config in enumerate((TUSS, CAUSAL, UNCONDITIONAL, STEREO, TUSS_SFC, plain)):
        found.append(read_parts(tiny_directory(folder, config, number)))
    return found


def one(context: list[Parts], rng: random.Random, folder: Path) -> None:
    table, tensors = rng.choice(context)
    write_changed(folder, table, tensors, SETTINGS, rng)
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
