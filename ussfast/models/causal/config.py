"""Sizes of the causal model."""

from dataclasses import dataclass

from ussfast.errors import InputError
from ussfast.models.config import LevelConfig
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class CausalConfig:
    """bands: widths in bins, lowest first, together all bins of the STFT.

    dim, hidden, heads: width of a band's token, of the feed-forward layers, and heads of the attention among bands.
    features: of every bin, made of the bin, its neighbours and the two frames before.
    repeats: equal prompts that are told apart.
    release_db: how fast the running level falls after a loud passage, in dB per second; it rises at once.
    """

    sample_rate: int
    stft: StftConfig
    prompts: tuple[str, ...]
    bands: tuple[int, ...]
    dim: int = 64
    hidden: int = 96
    heads: int = 2
    blocks: int = 5
    features: int = 12
    repeats: int = 4
    release_db: float = 60.0
    level: LevelConfig = LevelConfig(enabled=False)
    segment_seconds: float = 6.0

    def __post_init__(self) -> None:
        stft = self.stft
        if not self.prompts or len(set(self.prompts)) != len(self.prompts):
            raise InputError(f"prompts must be distinct names, at least one, got {list(self.prompts)}")
        if stft.window_length != stft.n_fft or stft.n_fft != 2 * stft.hop or stft.padding != "zero":
            raise InputError(f"a causal model needs n_fft = window_length = 2 hop and padding zero, got {stft}")
        if stft.normalize is not None or stft.drop_last_frame:
            raise InputError("a causal model needs an STFT without normalize and drop_last_frame")
        if not self.bands or min(self.bands) < 1 or sum(self.bands) != stft.bins:
            raise InputError(f"bands must be positive widths that sum to {stft.bins} bins, got {list(self.bands)}")
        if min(self.dim, self.hidden, self.heads, self.blocks, self.features, self.repeats) < 1:
            raise InputError(f"dim, hidden, heads, blocks, features and repeats must be at least 1, got {self}")
        if self.dim % self.heads:
            raise InputError(f"heads must divide dim, got {self.heads} and {self.dim}")
        if self.release_db <= 0:
            raise InputError(f"release_db must be above 0, got {self.release_db}")
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
