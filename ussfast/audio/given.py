"""Audio as callers give it: a path or an open file, which knows its rate, or an array, which does not."""

from typing import Any

import numpy as np

from ussfast.audio.arrays import validate
from ussfast.audio.held import is_file
from ussfast.audio.reading import read
from ussfast.audio.resampling import whole_rate
from ussfast.errors import InputError


def load(audio: Any, sample_rate: Any, model_rate: int) -> tuple[np.ndarray, int]:
    """(float32 [channels, samples], rate in Hz) of a path or open file, or of an array or tensor with `sample_rate`.

    Raises:
        AudioError: as `read` and `validate`.
        InputError: an array without a rate, or with one that cannot be.
    """
    if is_file(audio):
        return read(audio)
    samples = validate(audio)
    return samples, known_rate(sample_rate, model_rate)


def known_rate(sample_rate: Any, model_rate: int) -> int:
    """`sample_rate` as a plain number; InputError for one that audio cannot have, and where it was left out: any guess
    would separate some audio at the wrong pitch."""
    if sample_rate is None:
        raise InputError(
            "sample_rate is missing: arrays do not know theirs; give it in Hz "
            f"(this model works at {model_rate}, others are converted)"
        )
    return whole_rate(sample_rate, "sample_rate")
