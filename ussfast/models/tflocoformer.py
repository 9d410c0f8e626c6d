"""TF-Locoformer: a Conv2d front end, blocks over every bin, and a direct map to each source's spectrum (no mask).

Source: Saijo et al., "TF-Locoformer: Transformer with local modeling by convolution for speech separation and
enhancement", IWAENC 2024.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ussfast.models._base import SpectralModel
from ussfast.models.config import LevelConfig, Names, Rate, Seconds, Sources, StackConfig, check_labels
from ussfast.models.locoformer import Stack
from ussfast.plain import Checked
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class TfLocoformerConfig(Checked):
    """labels: names of the sources where training fixed their order; empty when the order is free."""

    sample_rate: Rate
    stft: StftConfig
    sources: Sources
    stack: StackConfig
    level: LevelConfig = LevelConfig(eps=0.0)
    labels: Names = ()
    segment_seconds: Seconds = 4.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels, self.sources)


class TfLocoformer(SpectralModel):
    masking = False

    def __init__(self, config: TfLocoformerConfig):
        super().__init__()
        self.config = config
        dim = config.stack.dim
        self.conv = nn.Conv2d(2, dim, 3, padding=1)
        self.norm = nn.GroupNorm(1, dim, eps=config.stack.eps)  # spans channels, time and frequency
        self.stack = Stack(config.stack)
        self.deconv = nn.ConvTranspose2d(dim, 2 * config.sources, 3, padding=1)

    def encode(self, spec: Tensor) -> Tensor:
        """[batch, frames, bins] complex -> [batch, frames, bins, dim]."""
        planes = torch.view_as_real(spec).permute(0, 3, 1, 2)
        with torch.autocast(spec.device.type, enabled=False):  # both ends stay float32, as in training
            return self.norm(self.conv(planes)).permute(0, 2, 3, 1).contiguous()

    def forward(self, spec: Tensor, prompts: Tensor | None = None) -> Tensor:
        """[batch, frames, bins] complex -> spectra [batch, sources, frames, bins, 2]; takes no prompts."""
        features = self.stack(self.encode(spec)).permute(0, 3, 1, 2)
        with torch.autocast(spec.device.type, enabled=False):
            planes = self.deconv(features.to(self.deconv.weight.dtype))
        return planes.unflatten(1, (self.config.sources, 2)).permute(0, 1, 3, 4, 2)
