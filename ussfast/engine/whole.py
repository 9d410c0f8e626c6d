"""Audio that fits into memory, at a rate of its own."""

import numpy as np

from ussfast.audio import resample
from ussfast.engine.engine import Engine
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.prompts.bank import Plan


def separate_whole(engine: Engine, mixture: np.ndarray, rate: int, plan: Plan) -> np.ndarray:
    """float32 [channels, samples] -> [sources, channels, samples], both at `rate`, in Hz.

    Raises:
        InputError: a rate that cannot be, or see `Engine.check_channels`.
        OutOfMemoryError: see `Engine.attempt`.
    """
    engine.check_channels(len(mixture))
    own = engine.model.config.sample_rate
    native = resample(mixture, rate, own) if rate != own else mixture

    def attempt(policy: SegmentPolicy) -> np.ndarray:
        parts = list(engine.separate([native], plan, policy))
        if not parts:  # resampling a handful of samples can leave none
            return np.zeros((len(plan.labels), *native.shape), np.float32)
        return np.concatenate(parts, -1)

    stems = engine.attempt(attempt)
    if rate == own:
        return stems
    return resample(np.concatenate(stems), own, rate, mixture.shape[1]).reshape(len(plan.labels), *mixture.shape)
