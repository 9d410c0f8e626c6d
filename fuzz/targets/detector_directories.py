"""Model directories of detectors, changed: what loads gives finite tags, scores and events, within bounds."""

import json
import random
from pathlib import Path

import numpy as np
from tiny import DETECTOR, RATE, noise, tiny_detector_directory

from fuzz.directories import Parts, read_parts, write_changed
from ussfast import Detector
from ussfast.checkpoints import names
from ussfast.checkpoints.store import read_info
from ussfast.models.detectors.htsat import HtsatConfig

SECONDS, MIB = 20.0, 768

HTSAT = HtsatConfig(
    labels=("dog", "rain"), front=DETECTOR.front, image=32, patch=2, window=4, dim=8, depths=(2, 2), heads=(2, 4),
    segment_seconds=0.6,
)  # fmt: skip


def prepare(folder: Path) -> list[Parts]:
    return [read_parts(tiny_detector_directory(folder, config)) for config in (DETECTOR, HTSAT)]


def one(context: list[Parts], rng: random.Random, folder: Path) -> None:
    table, tensors = rng.choice(context)
    write_changed(folder, table, tensors, SETTINGS, rng)
    detector = Detector(str(folder), dtype=rng.choice(("auto", "bfloat16")))
    assert names.glance(folder, "it") is None
    info = read_info(folder)
    assert info == detector.info and info.detects and info.labels == detector.labels
    rate, channels = rng.choice((detector.sample_rate, 8000, 44100)), rng.choice((1, 2))
    audio = noise(channels, max(2, rate // rng.choice((10, 1000))), rng.randrange(100))
    tags = detector.tag(audio, rate)
    assert tags.shape == (len(info.labels),) and tags.min() >= 0 and tags.max() <= 1
    assert np.isfinite(detector.embed(audio, rate)).all()
    scores = detector.frames(audio, rate)
    assert scores.shape[1] == len(info.labels) and len(scores) and scores.min() >= 0 and scores.max() <= 1
    threshold = rng.random()
    for event in detector.detect(audio, rate, threshold=threshold):
        assert 0 <= event.onset < event.offset <= audio.shape[1] / rate + 0.01 and threshold < event.score <= 1
    json.dumps(dict(info.source), allow_nan=False)


# What may be other than it is with the same weights, mostly.
SETTINGS: dict[str, tuple] = {
    "hop": (1, 2, 3, 64, 79, 80, 81, 256, 257, 8192),
    "n_fft": (16, 17, 128, 255, 256, 257, 512, 8192),
    "mels": (1, 2, 4, 8, 15, 16, 17, 32, 64, 512),
    "fmin": (0.0, 1.0, 20.0, 3999.0),
    "fmax": (1.0, 21.0, 4000.0, 4001.0),
    "sample_rate": (1000, RATE - 1, 16000, 44100, 384000),
    "segment_seconds": (0.05, 0.1, 0.64, 1.0, 10.0, 3600.0),
    "pooling": ("clip", "max", "mean"),
    "image": (8, 16, 32, 48, 64, 128, 512, 4096),
    "patch": (1, 2, 4, 8),
    "window": (2, 3, 4, 8, 16, 64),
    "depths": ([2, 2], [1, 2], [2], [2, 2, 2]),
    "heads": ([2, 4], [4, 2], [8, 8], [1, 1]),
    "expansion": (1, 4, 5),
    "drop_path": (0.0, 0.9),
    "labels": (["a", "b"], ["a", "b", "c"], ["a", "a"], ["../a", "b\nc"], ["\u00e9", "x" * 300, "-"]),
}
