"""A detector that makes vectors of clips for a separator that cannot itself."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.info import ModelInfo, fingerprint_of, read_info
from ussfast.checkpoints.names import CONFIG, QUERY, resolve
from ussfast.detect.detector import Detector
from ussfast.engine import forks
from ussfast.engine.lack import out_of_memory
from ussfast.errors import CheckpointError, InputError
from ussfast.models import SpectralModel
from ussfast.prompts.enrolment import Source
from ussfast.prompts.origin import Mark
from ussfast.prompts.queries import SEGMENT_SECONDS, ClipMean


class QueryDetector:
    """The detector of a separator: one that is given, or a model that is loaded when it is first needed.

    Args:
        given: a Detector, which stays on its device, or what it is made of; then it works on the separator's.
        model: of the separator. info: of that model.
    Raises:
        CheckpointError: there is no such model, or it is no detector.
        InputError: a model that needs no detector, or takes vectors of another size.
    """

    def __init__(self, given: Any, model: SpectralModel, info: ModelInfo):
        self._place: Path | None = None
        self._made: Detector | None = None
        self._mark: Mark | None = None
        if isinstance(given, Detector):
            self._made, self.info = given, given.info
        elif isinstance(given, (str, os.PathLike)):
            self._place = Path(os.path.abspath(resolve(os.fspath(given))))
            self.info = read_info(self._place)
        else:
            raise InputError(f"detector is a Detector, a model directory or owner/name, not {type(given).__name__}")
        if not self.info.detects:
            raise CheckpointError(f"{given}: a model that separates ({self.info.architecture}), not a detector")
        if model.prompt_size is None or hasattr(model, "embed"):
            what = "takes no prompts" if model.prompt_size is None else "makes prompts of clips itself"
            raise InputError(f"model {info.name!r} {what}: leave the detector out")
        made = self.info.config.embedding_dim
        if made != model.prompt_size:
            raise InputError(
                f"detector {self.info.name!r} makes vectors of {made} numbers, model {info.name!r} takes "
                f"{model.prompt_size}: give the detector that it was trained with"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Pickles and copies load a model from its place again."""
        return vars(self) | ({} if self._place is None else {"_made": None})

    def loaded(self, device: torch.device) -> Detector:
        """The detector; one from a place is on `device`."""
        if self._place is None:
            assert self._made is not None
            return self._made
        made = self._made
        if made is None or made.device != device:
            made = Detector(self._place, device=str(device))
            if made.info.fingerprint != self.info.fingerprint:
                raise CheckpointError(f"{self._place}: has other weights now: make the separator again")
            self._made = made
        return made

    @property
    def mark(self) -> Mark:
        """Which detector it is."""
        if self._mark is None:
            tensors = {} if self._made is None else self._made.model.state_dict()
            self._mark = Mark(self.info.name, fingerprint_of(self.info, tensors))
        return self._mark

    def source(self, device: torch.device) -> Source:
        """Vectors as published: 2 s segments, quiet ones left out, the mean over each clip."""
        detector = self.loaded(device)
        length = max(round(SEGMENT_SECONDS * detector.sample_rate), detector.model.least_samples)
        begin = partial(ClipMean, partial(_embed, detector), length)
        return Source(detector.sample_rate, begin, self.mark)


def _embed(detector: Detector, segments: Tensor) -> Tensor:
    forks.compute(detector.device)
    with out_of_memory(detector.device), torch.inference_mode():
        return detector.model.embed(segments.to(detector.device)).float().cpu()


def beside(directory: Path | None) -> Path | None:
    """The detector that a model directory carries, if there is one."""
    place = None if directory is None else directory / QUERY
    return place if place is not None and os.path.isfile(place / CONFIG) else None
