"""Enrolment: example clips of a sound become a prompt."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ussfast.audio import load, resample
from ussfast.errors import InputError
from ussfast.models import SpectralModel
from ussfast.prompts.bank import Prompt

SHORTEST = 0.1  # seconds
SILENCE = 1e-5  # RMS


def can_embed(model: SpectralModel) -> bool:
    return hasattr(model, "embed")


def enroll(
    model: Any, model_rate: int, name: str, clips: Sequence[Any], sample_rate: int | None = None
) -> Prompt:
    """The mean of the clips' prompt vectors, each of unit length first; see `Separator.enroll`."""
    if isinstance(clips, (str, Path)) or not len(clips):
        raise InputError("enrolment needs a list of clips, at least one: paths or arrays")
    found = []
    for number, clip in enumerate(clips, 1):
        audio, rate = load(clip, sample_rate, model_rate)
        mono = _mono(audio)
        mono = resample(mono, rate, model_rate) if rate != model_rate else mono
        where = str(clip) if isinstance(clip, (str, Path)) else f"clip {number}"
        if mono.shape[1] < SHORTEST * model_rate:
            raise InputError(f"{where}: {mono.shape[1] / model_rate:.3f} s are too short; give at least {SHORTEST} s")
        if float((mono**2).mean()) < SILENCE**2:
            raise InputError(f"{where} is silent; give a clip with the sound")
        with torch.inference_mode():
            found.append(unit(model.embed(torch.from_numpy(mono).to(model.prompts.device))[0].float()))
    return Prompt(name, torch.stack(found).mean(0).clone(), "enrolled")


def _mono(audio: np.ndarray) -> np.ndarray:
    """[channels, samples] -> [1, samples]: the mean, channels turned over whose phase is opposite to the loudest one's,
    so that they do not cancel."""
    loudest = audio[np.square(audio).sum(1).argmax()]
    signs = np.where(audio @ loudest < 0, np.float32(-1), np.float32(1))
    return (signs[:, None] * audio).mean(0, keepdims=True)


def unit(vector: Tensor) -> Tensor:
    """Scaled to a root mean square of 1, the length at which models look at prompts."""
    return vector / vector.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
