"""Sizes of the causal model."""

from dataclasses import dataclass
from typing import Annotated

from ussfast.errors import InputError
from ussfast.models.config import Bands, Blocks, Heads, LevelConfig, Names, Rate, Seconds, Width, check_prompts
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class CausalConfig(Checked):
    """bands: widths in bins, lowest first, together all bins of the STFT.

    dim, hidden, heads: width of a band's token, of the feed-forward layers, and heads of the attention among bands.
    features: of every bin, made of the bin, its neighbours and the two frames before.
    repeats: equal prompts that are told apart.
    release_db: how fast the running level falls after a loud passage, in dB per second; it rises at once.
    """

    sample_rate: Rate
    stft: StftConfig
    prompts: Names
    bands: Bands
    dim: Width = 64
    hidden: Width = 96
    heads: Heads = 2
    blocks: Blocks = 5
    features: Annotated[int, Range(1, 1024)] = 12
    repeats: Annotated[int, Range(1, 64)] = 4
    release_db: Annotated[float, Range(1e-3, 1e5)] = 60.0
    level: LevelConfig = LevelConfig(enabled=False)
    segment_seconds: Seconds = 6.0

    def __post_init__(self) -> None:
        super().__post_init__()
        stft = self.stft
        check_prompts(self.prompts)
        if stft.window_length != stft.n_fft or stft.n_fft != 2 * stft.hop or stft.padding != "zero":
            raise InputError(f"a causal model needs n_fft = window_length = 2 hop and padding zero, got {stft}")
        if stft.normalize is not None or stft.drop_last_frame:
            raise InputError("a causal model needs an STFT without normalize and drop_last_frame")
        if sum(self.bands) != stft.bins:
            raise InputError(f"bands must be widths that sum to {stft.bins} bins, got {list(self.bands)}")
        if self.dim % self.heads:
            raise InputError(f"heads must divide dim, got {self.heads} and {self.dim}")
        if self.level.enabled:
            raise InputError("a causal model has its own running level: level.enabled must be false")

    @property
    def latency_samples(self) -> int:
        """From a sample of the input to the same one of the output, at the model's rate."""
        return self.stft.n_fft

    @property
    def release(self) -> float:
        """What the logarithm of the level (of magnitudes) loses per frame at most."""
        return self.release_db / 8.685889638 * self.stft.hop / self.sample_rate
