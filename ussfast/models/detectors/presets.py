"""Sizes of the published detectors, by name; their labels are numbers where nobody gives others."""

import difflib

import torch

from ussfast.errors import InputError
from ussfast.models import build_detector
from ussfast.models.detectors import DetectorModel
from ussfast.models.detectors.cnn14 import Cnn14Config
from ussfast.models.detectors.log_mel import LogMelConfig

AUDIOSET = 527  # classes


def numbered(count: int) -> tuple[str, ...]:
    """Labels of classes whose names are not known."""
    return tuple(f"class {i}" for i in range(count))


NARROW = LogMelConfig(16000, n_fft=512, hop=160, fmin=50.0, fmax=8000.0)

DETECTOR_PRESETS: dict[str, Cnn14Config] = {
    "cnn14": Cnn14Config(numbered(AUDIOSET)),
    "cnn14-16k": Cnn14Config(numbered(AUDIOSET), NARROW),
    "cnn14-dlmax": Cnn14Config(numbered(AUDIOSET), pooling="max"),
}


def detector_preset(name: str) -> Cnn14Config:
    """The configuration of that name; InputError with the nearest names if there is none."""
    if name not in DETECTOR_PRESETS:
        near = difflib.get_close_matches(name, DETECTOR_PRESETS, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(DETECTOR_PRESETS)}"
        raise InputError(f"no preset {name!r} of a detector; {hint}")
    return DETECTOR_PRESETS[name]


def random_detector(name: str, seed: int) -> DetectorModel:
    """A detector of that preset with random weights; the caller's generator is left alone."""
    config = detector_preset(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_detector(config)
