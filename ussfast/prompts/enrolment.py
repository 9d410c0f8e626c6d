"""Enrolment: example clips of a sound become a prompt."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ussfast.audio import is_file, load, resample
from ussfast.audio.arrays import mono
from ussfast.audio.held import given_file
from ussfast.errors import InputError
from ussfast.models import SpectralModel
from ussfast.prompts.bank import Prompt

SHORTEST = 0.1  # seconds
SILENCE = 1e-5  # RMS
LOUD = 10.0  # a higher peak becomes 1: level does not matter, but squares of much louder samples are infinite


def can_embed(model: SpectralModel) -> bool:
    return hasattr(model, "embed")


def enroll(model: Any, model_rate: int, name: str, clips: Iterable[Any], sample_rate: Any = None) -> Prompt:
    """The mean of the clips' prompt vectors, each of unit length first; see `Separator.enroll`."""
    found = []
    for number, clip in enumerate(_listed(clips), 1):
        clip = given_file(clip) if is_file(clip) else clip
        audio, rate = load(clip, sample_rate, model_rate)
        one = _mono(audio)
        one = resample(one, rate, model_rate) if rate != model_rate else one
        where = str(clip) if is_file(clip) else f"clip {number}"
        if one.shape[1] < SHORTEST * model_rate:
            raise InputError(f"{where}: {one.shape[1] / model_rate:.3f} s are too short; give at least {SHORTEST} s")
        if float((one**2).mean()) < SILENCE**2:
            raise InputError(f"{where} is silent; give a clip with the sound")
        with torch.inference_mode():
            found.append(unit(model.embed(torch.from_numpy(one).to(model.prompts.device))[0].float()))
    return Prompt(name, torch.stack(found).mean(0).clone(), "enrolled")


def _listed(clips: Any) -> list[Any]:
    """The clips of any collection; InputError for one clip by itself, which is a collection, too, of what is none."""
    one = is_file(clips) or hasattr(clips, "__array__") or isinstance(clips, (bytes, bytearray, memoryview))
    listed = list(clips) if isinstance(clips, Iterable) and not one else []
    if not listed:
        raise InputError("enrolment needs a list of clips, at least one: paths, open files or arrays")
    return listed


def _mono(audio: np.ndarray) -> np.ndarray:
    """[channels, samples] -> [1, samples], without what would be infinite."""
    peak = float(np.abs(audio).max())
    return mono(audio / np.float32(peak) if peak > LOUD else audio)[None]


def unit(vector: Tensor) -> Tensor:
    """Scaled to a root mean square of 1, the length at which models look at prompts."""
    return vector / vector.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-6)
