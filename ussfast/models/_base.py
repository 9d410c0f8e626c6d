"""What all spectral separators share: level, STFT in front, inverse STFT behind."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.errors import InputError
from ussfast.models._linked import linked
from ussfast.models.config import LevelConfig
from ussfast.stft import StftConfig

TOGETHER = 2  # channels that share masks and are transformed back at once


@dataclass(frozen=True)
class Conditioning:
    """All that a model computes from prompts alone: [sources, n], the same for the batch, or [batch, sources, n]."""

    rows: Tensor


class SpectralModel(nn.Module, ABC):
    """A network from one spectrum to one spectrum per source, and its waveform form.

    Subclasses set `config` (with sample_rate, stft, level, segment_seconds), `prompt_names` (empty when
    unconditional) and define `forward(spec, prompts)`.
    channels: of the audio, which the network sees together. If there are several, waveforms are [batch, channels,
        samples] and spectra have an axis of channels behind that of the batch or the sources.
    masking: whether forward's result is to be multiplied with the mixture's spectrum.
    prompt_size: numbers of a prompt's vector; None if unconditional. Without `prompt_names`, vectors are all it takes.
    equal_prompts: that can be told apart, at most; None for any number. Beyond, sources would be the same signal.
    recordable: whether all it does is a function of tensors on its device, see `ussfast.engine.graphs`.
    """

    config: Any
    prompt_names: tuple[str, ...] = ()
    channels = 1
    masking = True
    prompt_size: int | None = None
    equal_prompts: int | None = None
    recordable = True

    def prompt_vectors(self, names: tuple[str, ...]) -> Tensor | None:
        """[sources, dim] vectors of the checkpoint's class prompts; None for unconditional models."""
        return None

    @abstractmethod
    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """Masks, or spectra if not `masking`.

        Args:
            spec: [batch, (channels,) frames, bins] complex, of the mixture.
            prompts: [sources, dim] (the same for the batch) or [batch, sources, dim]; None if unconditional.
        Returns:
            [batch, sources, (channels,) frames, bins, 2] real and imaginary parts.
        """

    def ahead(self, spec: Tensor) -> tuple[Tensor, ...]:
        """What of `forward` no prompt has a part in, each [batch, ...]: by default nothing but the spectrum itself."""
        return (spec,)

    def behind(self, ahead: tuple[Tensor, ...], prompts: Tensor) -> Tensor:
        """What `forward` gives of the spectrum that `ahead` was made of."""
        return self(ahead[0], prompts)

    def separate(self, audio: Tensor, prompts: Tensor | Conditioning | None, autocast: bool = False) -> Tensor:
        """Separates waveforms at the model's rate; the input is not modified.

        Args:
            audio: [batch, samples], or [batch, channels, samples] if the model has several channels, or if channels
                are to get the same masks, see `linked`; float32, at least two samples and no item constant zero.
            prompts: [sources, dim] (the same for the batch) or [batch, sources, dim]; None if unconditional. A model
                with `condition` also takes what that made of them.
            autocast: lets PyTorch run the network's matrix products in bfloat16; level and STFTs stay in float32.
        Returns:
            [batch, sources, samples] or [batch, sources, channels, samples] float32.
        Raises:
            InputError: audio of another shape, or several channels where the model has one and makes no masks.
        """
        config: StftConfig = self.config.stft
        several = audio.dim() == 3
        fits = several and audio.shape[1] == self.channels if self.channels > 1 else not several or self.masking
        if audio.dim() not in (2, 3) or not fits:
            expected = f"[batch, {self.channels}, samples]" if self.channels > 1 else "[batch, samples]"
            raise InputError(f"the model separates audio {expected}, got {list(audio.shape)}")
        # Transforms go channel by channel, what is in between item by item.
        batch, samples, channels = audio.shape[0], audio.shape[-1], audio.shape[1] if several else 1
        spec, scale = self.analyze(audio)
        net_spec = spec.unflatten(0, (batch, channels)) if several else spec
        if several and self.channels == 1:
            net_spec = linked(net_spec, 1)
        with torch.autocast(audio.device.type, torch.bfloat16, enabled=autocast):
            estimate = self(net_spec, prompts)
        if several and self.channels == 1:
            # A few channels at a time: the masks of all would be most of the memory.
            parts = spec.unflatten(0, (batch, channels)).split(TOGETHER, 1)
            outs = [
                stft.synthesize(estimate.repeat_interleave(p.shape[1], 0), config, samples, p.flatten(0, 1))
                for p in parts
            ]
            out = torch.cat([o.unflatten(0, (batch, -1)).transpose(1, 2) for o in outs], 2)
        else:
            rows = estimate.transpose(1, 2).flatten(0, 1) if several else estimate
            out = stft.synthesize(rows, config, samples, spec if self.masking else None)
            out = out.unflatten(0, (batch, channels)).transpose(1, 2) if several else out
        return out if scale is None else out * scale.view(-1, *[1] * (out.dim() - 1))

    def analyze(self, audio: Tensor) -> tuple[Tensor, Tensor | None]:
        """Spectra [batch * channels, frames, bins] at the level that the network wants, and the items' own [batch]."""
        config: StftConfig = self.config.stft
        level: LevelConfig = self.config.level
        rows, channels = audio.flatten(0, -2), audio.shape[1] if audio.dim() == 3 else 1
        if not level.enabled:
            return stft.drop_frame(stft.analyze(rows, config), config), None
        if level.domain == "waveform":
            scale = audio.flatten(1).std(-1) + level.eps
            each = scale.repeat_interleave(channels)
            return stft.drop_frame(stft.analyze(rows / each[:, None], config), config), scale
        spec = stft.analyze(rows, config)
        power = torch.view_as_real(spec).square().sum(-1).clamp(min=level.eps)
        scale = power.mean((1, 2)).view(-1, channels).mean(1).sqrt()
        # The transform is linear: scaling the spectrum saves a second one of the scaled waveform.
        each = scale.repeat_interleave(channels)
        return stft.drop_frame(spec, config) / each[:, None, None], scale

    def parameter_count(self) -> int:
        """Parameters as the published totals count them: rotary frequencies once per stack and path included.

        Other buffers are fixed tables: they do not count.
        """
        rotary = [value for name, value in self.named_buffers() if name.endswith("_rope")]
        return sum(t.numel() for t in (*self.parameters(), *rotary))

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype
