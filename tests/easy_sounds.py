"""Sounds that are easy to tell apart, and a model of random weights in which prompts matter much."""

import numpy as np
import torch
from tiny import CAUSAL

from ussfast.models import build

RATE = CAUSAL.sample_rate


def tones(seed, seconds=1.5):
    """A low tone: easy to tell from noise above it."""
    rng = np.random.default_rng(seed)
    time = np.arange(round(seconds * RATE)) / RATE
    return np.sin(2 * np.pi * rng.uniform(180, 240) * time + rng.uniform(0, 6)).astype(np.float32) * 0.3


def hiss(seed, seconds=1.5):
    return np.diff(np.random.default_rng(seed).standard_normal(round(seconds * RATE) + 1)).astype(np.float32) * 0.2


def heeding_model():
    torch.manual_seed(0)
    model = build(CAUSAL)
    with torch.no_grad():
        model.by_band.mul_(50)
        for weight in model.decoder.outer:
            weight.mul_(3)
    return model
