"""Weakly labelled clips for tests: every label has its own tone, in bursts; and recipes for them."""

import dataclasses
import json

import numpy as np
import soundfile
from tiny import DETECTOR, RATE

from ussfast.data.clips import labels_of, read_clips
from ussfast.data.pool import AudioPool
from ussfast.models.config import to_dict
from ussfast.train.clip_recipes import detector_from_dict, weak_from_dict
from ussfast.train.clip_sets import ClipSet

TONES = {"low": 300, "middle": 1000, "high": 2500}
NEW = {"buzz": 1700}  # held out
SECONDS = (0.3, 0.5, 0.9, 1.6)


def burst(tone, seconds, at=0.5, length=0.2, seed=0):
    """A tone for `length` seconds around the share `at` of the clip, in faint noise."""
    time = np.arange(round(seconds * RATE)) / RATE
    heard = np.exp(-(((time - at * seconds) / (length / 2)) ** 4))
    noise = np.random.default_rng(seed).standard_normal(len(time))
    return (0.3 * heard * np.sin(2 * np.pi * tone * time) + 1e-3 * noise).astype(np.float32)


def clip_manifest(folder):
    """manifest.json with four clips per label to train on and two for validation; those of NEW are for that alone."""
    rows = []
    for label, tone in {**TONES, **NEW}.items():
        for split, count in (("train", 0 if label in NEW else 4), ("dev", 2)):
            for number in range(count):
                path = f"{split}-{label}-{number}.wav"
                clip = burst(tone * (1 + 0.03 * number), SECONDS[number], 0.3 + 0.1 * number, seed=number)
                soundfile.write(folder / path, clip, RATE)
                row = {"path": path, "prompt": "sfx", "label": label, "split": split, "license_class": "permissive"}
                rows.append(row | {"sample_rate": RATE, "license": "CC0-1.0", "source": f"{label} for {split}"})
    (folder / "manifest.json").write_text(json.dumps({"items": rows}))
    return folder / "manifest.json"


RUN = {"log_every": 1, "validate_every": 1000, "validate_items": 2, "checkpoint_every": 1000, "tensorboard": False}
UNET = {
    "architecture": "asp_unet",
    "sample_rate": RATE,
    "stft": {"n_fft": 128, "hop": 64, "window_length": 128, "window": "hann", "padding": "reflect"},
    "latent_dim": 8,
    "encoder_channels": [4, 8],
    "center_channels": 8,
    "segment_seconds": 0.4,
}


SMALL = {"dropout": [0.1, 0.1], "pooling": "linear", "channels": [8, 16, 8]}


def plain_detector(model=None, **changes):
    """A detector's recipe in its plain form; `changes` go into its tables, or take their place."""
    own = {k: v for k, v in json.loads(json.dumps(to_dict(DETECTOR))).items() if k != "labels"}
    recipe = {
        "kind": "detector",
        "name": "tiny",
        "model": {"architecture": "cnn14", **own, **SMALL} if model is None else model,
        "labels": list(TONES),
        "clips": {"seconds": 0.5, "batch": 6, "sums": 0.5, "unlabelled": 0.2, "time_frames": 8, "mel_bands": 2},
        "optim": {"steps": 6, "lr": 0.01, "warmup": 1, "ema": 0.5},
        "run": RUN,
    }
    return _changed(recipe, changes)


def plain_weak(**changes):
    recipe = {
        "kind": "weak",
        "name": "tiny",
        "model": UNET,
        "labels": [*TONES, *NEW],
        "held_out": list(NEW),
        "pairs": {"pairs": 3, "clip_seconds": 1.0, "query_clips": 2},
        "optim": {"steps": 6, "lr": 0.01, "warmup": 1, "ema": 0.5},
        "run": RUN,
    }
    return _changed(recipe, changes)


def _changed(recipe, changes):
    for table, entries in changes.items():
        recipe[table] = recipe[table] | entries if isinstance(entries, dict) and table != "model" else entries
    return recipe


def clip_sets(manifest, rules):
    items = read_clips(manifest)
    parts = [[item for item in items if item.split == split] for split in ("train", "dev")]
    return [ClipSet(AudioPool.load(part, RATE), labels_of(part, rules)) for part in parts]


def detector_recipe(**changes):
    recipe = detector_from_dict(plain_detector(**changes))
    return recipe.knowing(recipe.labels)


def weak_recipe(**changes):
    return weak_from_dict(plain_weak(**changes))


def known(config=DETECTOR, labels=tuple(TONES)):
    """The configuration of a detector that knows these labels."""
    return dataclasses.replace(config, labels=labels)
