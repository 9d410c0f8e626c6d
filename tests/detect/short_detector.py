"""Detectors of tests/golden that are meant for clips of a second."""

from dataclasses import replace

import numpy as np
import torch
from golden_detectors import LEVEL, golden_detector

from ussfast.checkpoints.store import fill_detector

RATE = 32000
SECOND = 0.99  # window of the models here: 100 frames of 10 ms, but for the last sample


def golden_copy(name, **changes):
    """A golden detector to do anything with, with some fields of its configuration changed."""
    model = golden_detector(name)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    return fill_detector(replace(model.config, **changes), state, name)


def shortened(name=LEVEL):
    """One that is meant for clips of a second."""
    return golden_copy(name, segment_seconds=SECOND)


def model_says(detector, clip):
    with torch.inference_mode():
        return detector.model(torch.from_numpy(np.array(clip, np.float32)))
