"""Small causal models of several sizes, and noise for them."""

from dataclasses import replace

import torch
from tiny import CAUSAL, STFT, tiny_model

HOP = CAUSAL.stft.hop
CONFIGS = {
    "default": CAUSAL,
    # No size a multiple of a vector's lanes, three heads, odd features.
    "odd widths": replace(CAUSAL, dim=21, heads=3, hidden=19, features=5, bands=(1, 2, 3, 17, STFT.bins - 23)),
    # More bands than a panel has columns, and as many features as bins.
    "many bands": replace(
        CAUSAL, dim=34, heads=1, hidden=33, features=2, blocks=1, bands=(1,) * 39 + (STFT.bins - 39,)
    ),
    "one band": replace(CAUSAL, dim=32, heads=2, blocks=3, bands=(STFT.bins,)),
}
MODELS = {name: tiny_model(config).eval() for name, config in CONFIGS.items()}


def audio(batch, samples, seed=0):
    """Noise that grows louder: level and contexts matter."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, samples, generator=rng) * torch.linspace(0.02, 0.5, samples)


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()
