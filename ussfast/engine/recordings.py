"""Recordings at a rate of their own: arrays, and files into files."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ussfast.audio import AudioReader, OutputFormat, Written, probe, resample
from ussfast.audio.naming import check_inputs_stay, identities, make_folders
from ussfast.engine.engine import Engine
from ussfast.engine.records import Record, made_of
from ussfast.errors import OutputError, UssfastError
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
    out = np.empty((len(plan.labels), *mixture.shape), np.float32)
    together = engine.together(len(mixture), plan)

    def attempt(policy: SegmentPolicy) -> None:
        for first in range(0, len(mixture), together):
            some = slice(first, first + together)
            _separate(engine, mixture[some], rate, plan, policy, out[:, some])

    engine.attempt(attempt)
    return out


def _separate(
    engine: Engine, mixture: np.ndarray, rate: int, plan: Plan, policy: SegmentPolicy, out: np.ndarray
) -> None:
    """`separate_whole` of a few channels, into out [sources, channels, samples]."""
    own = engine.model.config.sample_rate
    native = resample(mixture, rate, own) if rate != own else mixture
    stems = np.zeros((len(out), *native.shape), np.float32) if rate != own else out
    size, place = max(1, round(policy.segment * own * engine.share(len(native)))), 0
    blocks = (native[:, at : at + size] for at in range(0, native.shape[1], size))
    for part in map(_finite, engine.separate(blocks, plan, policy)):
        stems[..., place : place + part.shape[-1]] = part
        place += part.shape[-1]
    if rate != own:
        flat = stems.reshape(len(out) * len(native), native.shape[1])
        out[:] = resample(flat, own, rate, mixture.shape[1]).reshape(out.shape)
    if engine.remix:
        out[:] = engine.remix(out, mixture)


def separate_recording(
    engine: Engine, path: Any, plan: Plan, paths: list[Path], labels: Sequence[str], output: OutputFormat,
    keep: Sequence[int], progress: Progress | None, skip_existing: bool,
) -> Written:  # fmt: skip
    """A file of any duration into `paths`, and a record beside them of what they were made of.

    Args:
        paths, labels: of the stems; one more than `keep` has is the residual.
        keep: places in the plan of the stems that are written.
        skip_existing: does nothing where such a record says that this has been done.
    Raises:
        AudioError, OutputError; InputError: an output would overwrite the input, or cannot hold it.
        OutOfMemoryError: see `Engine.attempt`.
    """
    check_inputs_stay(paths, identities([path]))
    info = probe(path)  # a bad input, or one that the files cannot hold, is reported before any folder is made
    engine.check_channels(info.channels)
    files = [output.for_file(file, info.sample_rate, info.channels) for file in paths]
    record = Record(path, paths, labels, made_of(engine, plan, files))
    if skip_existing and record.holds():
        return Written(paths, fingerprint=record.fingerprint)
    make_folders(paths)
    done = separate_into(engine, path, plan, paths, len(paths) > len(keep), output, keep, progress)
    try:
        record.write()
    except OutputError as error:  # the stems are there, and only a later run would miss it
        done.warnings += (f"--skip-existing will not know these stems: {error}",)
    done.fingerprint = record.fingerprint
    return done


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
