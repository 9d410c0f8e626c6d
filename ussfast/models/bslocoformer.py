"""Band-split TF-Locoformer with a fixed number of sources: TUSS's unconditional twin ("conventional").

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025 (the baseline without prompts).
"""

from dataclasses import dataclass

from torch import Tensor

from ussfast.errors import InputError
from ussfast.models._base import SpectralModel
from ussfast.models.band_split import BandMerge, BandSplit, tuss_bands
from ussfast.models.config import LevelConfig, StackConfig, StftConfig
from ussfast.models.locoformer import Stack
from ussfast.models.tuss import check_bands


@dataclass(frozen=True)
class BsLocoformerConfig:
    """labels: names of the sources where training fixed their order; empty when the order is free."""

    sample_rate: int
    stft: StftConfig
    sources: int
    first: StackConfig
    second: StackConfig
    bands: tuple[int, ...] | None = None
    decoder_expansion: int = 4
    level: LevelConfig = LevelConfig()
    labels: tuple[str, ...] = ()
    segment_seconds: float = 6.0

    def __post_init__(self) -> None:
        if self.sources < 1 or len(self.labels) not in (0, self.sources):
            raise InputError(f"sources {self.sources} and labels {list(self.labels)} do not fit together")
        if self.first.dim != self.second.dim:
            raise InputError(f"both stacks need the same dim, got {self.first.dim} and {self.second.dim}")
        check_bands(self.bands, self.stft)


class BsLocoformer(SpectralModel):
    def __init__(self, config: BsLocoformerConfig):
        super().__init__()
        self.config = config
        bands = config.bands or tuss_bands(config.sample_rate, config.stft.bins)
        self.encoder = BandSplit(bands, config.first.dim)
        self.first = Stack(config.first)
        self.second = Stack(config.second)
        self.decoder = BandMerge(bands, config.first.dim, config.sources, config.decoder_expansion)

    def forward(self, spec: Tensor, prompts: Tensor | None = None) -> Tensor:
        """[batch, frames, bins] complex -> masks [batch, sources, frames, bins, 2]; takes no prompts."""
        return self.decoder(self.second(self.first(self.encoder(spec))))
