"""TF-Locoformer on band tokens with a fixed number of sources: TUSS's unconditional twin, and SFC's separator.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025 (the baseline without prompts); Saijo & Bando,
"Input-Adaptive Spectral Feature Compression by Sequence Modeling for Source Separation", IEEE TASLP 2026 (arXiv
2602.08671).
"""

from dataclasses import dataclass
from typing import Annotated

from torch import Tensor

from ussfast.errors import InputError
from ussfast.models._ends import BandModel, check_ends
from ussfast.models.config import (
    Bands,
    Expansion,
    LevelConfig,
    Names,
    Rate,
    Seconds,
    Sources,
    StackConfig,
    check_labels,
)
from ussfast.models.locoformer import Stack
from ussfast.models.sfc import SfcConfig
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class BsLocoformerConfig(Checked):
    """sources: that come out, each with all channels.

    second: a further stack with settings of its own; None if there is only one.
    bands: widths in bins of the band split, low to high; None takes the rule of TUSS for the sample rate.
    decoder_expansion: of the band split's decoder, see `TussConfig`.
    labels: names of the sources where training fixed their order; empty when the order is free.
    sfc: encoder and decoder by spectral feature compression; None is the band split.
    channels: of the audio, separated together; more than one only with sfc.
    """

    sample_rate: Rate
    stft: StftConfig
    sources: Sources
    first: StackConfig
    second: StackConfig | None = None
    bands: Bands | None = None
    decoder_expansion: Expansion = 4
    level: LevelConfig = LevelConfig()
    labels: Names = ()
    segment_seconds: Seconds = 6.0
    sfc: SfcConfig | None = None
    channels: Annotated[int, Range(1, 64)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels, self.sources)
        if self.second is not None and self.first.dim != self.second.dim:
            raise InputError(f"both stacks need the same dim, got {self.first.dim} and {self.second.dim}")
        if self.channels > 1 and self.sfc is None:
            raise InputError(f"channels must be 1, or more with sfc, got {self.channels}")
        check_ends(self.bands, self.sfc, self.stft, self.sample_rate)


class BsLocoformer(BandModel):
    def __init__(self, config: BsLocoformerConfig):
        super().__init__()
        self.config, self.channels = config, config.channels
        self.encoder = self.make_encoder(config, config.first.dim)
        self.first = Stack(config.first)
        self.second = None if config.second is None else Stack(config.second)
        self.decoder = self.make_decoder(config, config.first.dim, config.sources)

    def forward(self, spec: Tensor, prompts: Tensor | None = None) -> Tensor:
        """[batch, (channels,) frames, bins] complex -> masks [batch, sources, (channels,) frames, bins, 2]; takes no
        prompts. There is an axis of channels if the model has several."""
        tokens, bin_tokens = self.encode(spec)
        tokens = self.first(tokens)
        return self.decode(tokens if self.second is None else self.second(tokens), bin_tokens)
