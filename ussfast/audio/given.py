"""Audio as callers give it: a path, which knows its rate, or an array, which does not."""

from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio.reading import read, validate
from ussfast.errors import InputError


def load(audio: Any, sample_rate: int | None, model_rate: int) -> tuple[np.ndarray, int]:
    """(float32 [channels, samples], rate in Hz) of a path, or of an array or tensor with `sample_rate`.

    Raises:
        AudioError: as `read` and `validate`.
        InputError: an array without a rate.
    """
    if isinstance(audio, (str, Path)):
        return read(audio)
    rate = known_rate(sample_rate, model_rate)
    return validate(audio), rate


def known_rate(sample_rate: int | None, model_rate: int) -> int:
    """`sample_rate`; InputError where it was left out: any guess would separate some audio at the wrong pitch."""
    if sample_rate is None:
        raise InputError(
            "sample_rate is missing: arrays do not know theirs; give it in Hz "
            f"(this model works at {model_rate}, others are converted)"
        )
    return sample_rate
