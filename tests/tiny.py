"""Models that run in milliseconds, saved as users have them: model directories with random weights."""

import numpy as np
import torch

from ussfast.checkpoint import save_model
from ussfast.models import build
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.config import FfnConfig, StackConfig, StftConfig
from ussfast.models.tuss import TussConfig

RATE = 8000
PROMPTS = ("speech", "sfx", "sfxbg", "drums", "bass", "vocals", "other", "musicbg")
BANDS = (5, 10, 20, 30)
STFT = StftConfig(n_fft=128, hop=64, window_length=128)
STACK = StackConfig(
    blocks=1, dim=8, groups=2, heads=2, attention_dim=8, freq_ffn=(FfnConfig(8, 3),), time_ffn=(FfnConfig(8, 1),)
)
TUSS = TussConfig(
    sample_rate=RATE, stft=STFT, prompts=PROMPTS, cross_prompt=STACK, extraction=STACK, bands=BANDS, decoder_expansion=1
)
UNCONDITIONAL = BsLocoformerConfig(
    sample_rate=RATE, stft=STFT, sources=3, first=STACK, second=STACK, bands=BANDS, decoder_expansion=1
)


def tiny_model(config=TUSS, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)


def tiny_directory(folder, config=TUSS, seed=0):
    """A model directory under `folder`, which must exist."""
    directory = folder / f"{type(config).__name__}-{seed}"
    save_model(directory, tiny_model(config, seed), name="tiny", license="CC0-1.0", source={"made": "at random"})
    return directory


def noise(channels, samples, seed=0):
    """Noise bursts, float32 [channels, samples]: not stationary, so that a shift in time shows."""
    rng = np.random.default_rng(seed)
    swell = 0.6 + 0.4 * np.sin(np.arange(samples) / 331 + np.arange(channels)[:, None])
    return (0.2 * swell * rng.standard_normal((channels, samples))).astype(np.float32)
