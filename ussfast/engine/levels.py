"""Levels that models can bear: sound that is too soft is silence, and what is far too loud is damage."""

import numpy as np

from ussfast.errors import AudioError

# A standard deviation below a quarter of a 24-bit step: nothing to hear, and levels by division would explode.
SILENCE = 2.0**-25
LOUDEST = 1e10  # full scale is 1: squares of what is beyond, and their sums, would overflow


def loud_channels(audio: np.ndarray) -> np.ndarray:
    """Indices of channels [channels, samples] that can be heard."""
    # In float64: rounded to float32, the mean of a constant is not that constant.
    return np.flatnonzero(audio.std(1, dtype=np.float64) > SILENCE)


def bearable(block: np.ndarray) -> np.ndarray:
    """The block itself; AudioError if a sample of it is beyond what anybody has recorded."""
    peak = max(float(block.max(initial=0)), -float(block.min(initial=0)))
    if not peak <= LOUDEST:
        raise AudioError(f"the audio is damaged: there is a sample of {peak:g}, where full scale is 1")
    return block
