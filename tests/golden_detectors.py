"""The detectors of tests/golden, built through the converter."""

import json
from functools import cache

from golden_io import GOLDEN, settings, weights
from torch import Tensor

from ussfast.checkpoints.store import fill_detector
from ussfast.convert import panns
from ussfast.models.detectors import DetectorModel

TAGS, LEVEL = "cnn14_tiny", "cnn14_dlmax_tiny"


def detector(name: str, state: dict[str, Tensor] | None = None) -> DetectorModel:
    """The detector of an instance, with its weights or others."""
    found, state = panns.read_config(settings(name)), weights(name) if state is None else state
    config = panns.configure(found, state)
    return fill_detector(config, panns.read_weights(state, config), name)


@cache
def golden_detector(name: str) -> DetectorModel:
    return detector(name)


def published_keys(name: str) -> dict[str, list[int]]:
    """Keys and shapes of a full-size published model."""
    return json.loads((GOLDEN / "keys" / f"{name}.json").read_text())["keys"]
