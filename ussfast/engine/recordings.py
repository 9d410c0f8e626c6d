"""Recordings at a rate of their own: arrays, and files into files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio import AudioReader, OutputFormat, Written, resample
from ussfast.engine.engine import Engine
from ussfast.errors import UssfastError
from ussfast.long_audio.pipeline import Progress, separate_to_files
from ussfast.long_audio.policy import SegmentPolicy
from ussfast.prompts.bank import Plan


def separate_whole(engine: Engine, mixture: np.ndarray, rate: int, plan: Plan) -> np.ndarray:
    """float32 [channels, samples] -> [sources, channels, samples], both at `rate`, in Hz.

    Raises:
        InputError: a rate that cannot be, or see `Engine.check_channels`.
        OutOfMemoryError: see `Engine.attempt`.
        UssfastError: see `_finite`.
    """
    engine.check_channels(len(mixture))
    own = engine.model.config.sample_rate
    native = resample(mixture, rate, own) if rate != own else mixture

    def attempt(policy: SegmentPolicy) -> np.ndarray:
        parts = list(map(_finite, engine.separate([native], plan, policy)))
        if not parts:  # resampling a handful of samples can leave none
            return np.zeros((len(plan.labels), *native.shape), np.float32)
        return np.concatenate(parts, -1)

    stems = engine.attempt(attempt)
    if rate != own:
        flat = resample(np.concatenate(stems), own, rate, mixture.shape[1])
        stems = flat.reshape(len(plan.labels), *mixture.shape)
    return engine.remix(stems, mixture)


def separate_into(
    engine: Engine, path: Any, plan: Plan, paths: list[Path], residual: bool, output: OutputFormat,
    keep: Sequence[int], progress: Progress | None,
) -> Written:  # fmt: skip
    """A file of any duration into `paths`; see `separate_to_files`.

    Args:
        path: as for AudioReader, which may read it more than once.
        keep: places in the plan of the stems that are written.
    Raises:
        OutOfMemoryError: see `Engine.attempt`.
    """

    def attempt(policy: SegmentPolicy) -> Written:
        with AudioReader(path) as reader:

            def separate(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
                return map(_finite, engine.separate(blocks, plan, policy))

            return separate_to_files(
                reader, engine.model.config.sample_rate, separate, paths, residual, output,
                progress, len(plan.labels), keep, engine.remix,
            )  # fmt: skip

    return engine.attempt(attempt)


def _finite(block: np.ndarray) -> np.ndarray:
    """What came out of a model, unless it is no sound: a stranger's weights may be such."""
    if not np.isfinite(block).all():
        raise UssfastError(
            "what the model makes of this audio is not finite: its weights, or the audio's samples, are far too large"
        )
    return block
