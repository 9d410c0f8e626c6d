"""What all detectors share: what goes in, what comes out, and getting ready for inference."""

from abc import ABC, abstractmethod
from typing import Annotated, Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models.detectors._folding import ConvNorm
from ussfast.plain import Range, Word

Labels = Annotated[tuple[Annotated[str, Word(100)], ...], Range(1, 10_000)]


class Detection(NamedTuple):
    """What one pass of a detector gives; all of it float32 (float64 for a model in it), scores from 0 to 1.

    tags: [clips, labels], of the whole clip.
    frames: [clips, frames, labels], frames `frame_seconds` apart; None from a model that tags clips only.
    embedding: [clips, dim], a vector that stands for the sound.
    """

    tags: Tensor
    frames: Tensor | None
    embedding: Tensor


class DetectorModel(nn.Module, ABC):
    """A network from waveforms to scores of labels.

    Subclasses set `config` (with sample_rate, labels, segment_seconds: of the clips that it is meant for) and define
    what is abstract here.
    """

    config: Any

    @abstractmethod
    def forward(self, audio: Tensor) -> Detection:
        """Everything at once.

        Args:
            audio: [clips, samples] float32 at the model's rate, at least `least_samples`.
        Raises:
            InputError: audio of another shape, or shorter.
        """

    @property
    @abstractmethod
    def frame_seconds(self) -> float:
        """From one row of `frames` to the next."""

    @property
    @abstractmethod
    def least_samples(self) -> int:
        """The shortest clip that the model takes."""

    @property
    @abstractmethod
    def embedding_dim(self) -> int:
        """Numbers in an embedding."""

    @property
    def labels(self) -> tuple[str, ...]:
        return self.config.labels

    def tag(self, audio: Tensor) -> Tensor:
        """[clips, samples] -> [clips, labels]; raises like `forward`."""
        return self(audio).tags

    def frames(self, audio: Tensor) -> Tensor:
        """[clips, samples] -> [clips, frames, labels]; raises like `forward`, and for a model that only tags clips."""
        found = self(audio).frames
        if found is None:
            raise InputError("this detector tags whole clips: it has no scores over time")
        return found

    def embed(self, audio: Tensor) -> Tensor:
        """[clips, samples] -> [clips, embedding_dim]; raises like `forward`."""
        return self(audio).embedding

    def fold(self, dtype: torch.dtype = torch.float32) -> Self:
        """Folds norms into convolutions for calls in evaluation mode without gradients.

        Training, loading weights and moving or copying the model undo it. dtype: of the folded convolutions; bfloat16
        is for devices that multiply in it.
        """
        for module in self.modules():
            if isinstance(module, ConvNorm):
                module.fold(dtype)
        return self

    def parameter_count(self) -> int:
        """Trained numbers; the front end and running statistics do not count, as in published totals."""
        return sum(p.numel() for p in self.parameters())

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def check_distinct(labels: tuple[str, ...]) -> None:
    if len(set(labels)) != len(labels):
        twice = next(label for i, label in enumerate(labels) if label in labels[:i])
        raise InputError(f"labels must differ, {twice!r} is there twice")
