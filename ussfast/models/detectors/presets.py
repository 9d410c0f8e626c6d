"""Sizes of the published detectors, by name; their labels are numbers where nobody gives others."""

import torch

from ussfast.models import build_detector
from ussfast.models.detectors import DetectorModel
from ussfast.models.detectors.cnn14 import Cnn14Config
from ussfast.models.detectors.htsat import HtsatConfig
from ussfast.models.detectors.log_mel import LogMelConfig
from ussfast.models.presets import look_up

AUDIOSET = 527  # classes


def numbered(count: int) -> tuple[str, ...]:
    """Labels of classes whose names are not known."""
    return tuple(f"class {i}" for i in range(count))


NARROW = LogMelConfig(16000, n_fft=512, hop=160, fmin=50.0, fmax=8000.0)

CNN14: dict[str, Cnn14Config] = {
    "cnn14": Cnn14Config(numbered(AUDIOSET)),
    "cnn14-16k": Cnn14Config(numbered(AUDIOSET), NARROW),
    "cnn14-dlmax": Cnn14Config(numbered(AUDIOSET), pooling="max"),
}
HTSAT: dict[str, HtsatConfig] = {
    "htsat-2048d": HtsatConfig(numbered(AUDIOSET)),
    "htsat-768d": HtsatConfig(numbered(AUDIOSET), dim=96),
}
DETECTOR_PRESETS: dict[str, Cnn14Config | HtsatConfig] = {**CNN14, **HTSAT}


def detector_preset(name: str) -> Cnn14Config | HtsatConfig:
    """The configuration of that name; InputError with the nearest names if there is none."""
    return look_up(name, DETECTOR_PRESETS, "preset of a detector")


def random_detector(name: str, seed: int) -> DetectorModel:
    """A detector of that preset with random weights; the caller's generator is left alone."""
    config = detector_preset(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_detector(config)
