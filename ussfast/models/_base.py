"""What all spectral separators share: level, STFT in front, inverse STFT behind."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.models.config import LevelConfig, StftConfig


class SpectralModel(nn.Module, ABC):
    """A network from one spectrum to one spectrum per source, and its waveform form.

    Subclasses set `config` (with sample_rate, stft, level, segment_seconds), `prompt_names` (empty when
    unconditional) and define `forward(spec, prompts)`.
    masking: whether forward's result is to be multiplied with the mixture's spectrum.
    """

    config: Any
    prompt_names: tuple[str, ...] = ()
    masking = True

    def prompt_vectors(self, names: tuple[str, ...]) -> Tensor | None:
        """[sources, dim] vectors of the checkpoint's class prompts; None for unconditional models."""
        return None

    @abstractmethod
    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """Masks, or spectra if not `masking`.

        Args:
            spec: [batch, frames, bins] complex, of the mixture.
            prompts: [sources, dim] (the same for the batch) or [batch, sources, dim]; None if unconditional.
        Returns:
            [batch, sources, frames, bins, 2] real and imaginary parts.
        """

    def separate(self, audio: Tensor, prompts: Tensor | None, autocast: bool = False) -> Tensor:
        """Separates waveforms at the model's rate; the input is not modified.

        Args:
            audio: [batch, samples] float32, at least two samples and not constant zero.
            prompts: [sources, dim] (the same for the batch) or [batch, sources, dim]; None if unconditional.
            autocast: lets PyTorch run the network's matrix products in bfloat16; level and STFTs stay in float32.
        Returns:
            [batch, sources, samples] float32.
        """
        config: StftConfig = self.config.stft
        level: LevelConfig = self.config.level
        scale = audio.std(-1, keepdim=True) + level.eps if level.enabled else None
        spec = stft.analyze(audio if scale is None else audio / scale, config)
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=autocast):
            estimate = self(spec, prompts)
        out = stft.synthesize(estimate, config, audio.shape[-1], spec if self.masking else None)
        return out if scale is None else out * scale[:, None]

    def parameter_count(self) -> int:
        """Parameters as the published totals count them: rotary frequencies once per stack and path included."""
        return sum(t.numel() for t in (*self.parameters(), *self.buffers()))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
