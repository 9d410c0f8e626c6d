"""Small causal models of every kind, and noise for them."""

from dataclasses import replace

import torch
from tiny import CAUSAL, tiny_model

from ussfast.models.config import FfnConfig

HOP = CAUSAL.stft.hop
MACARON = replace(CAUSAL.stack, time_ffn=(FfnConfig(8, 4), FfnConfig(6, 2)))
CONFIGS = {
    "default": CAUSAL,
    "look-ahead": replace(CAUSAL, look_ahead=2),
    "two feed-forward layers": replace(CAUSAL, stack=MACARON, sfc=replace(CAUSAL.sfc, ffn=1, learned_slope=True)),
    "frames alone in the encoder": replace(CAUSAL, sfc=replace(CAUSAL.sfc, encoder_time="none")),
    "band split": replace(CAUSAL, encoder="band_split"),
}
MODELS = {name: tiny_model(config).eval() for name, config in CONFIGS.items()}


def audio(batch, samples, seed=0):
    """Noise that grows louder: level, windows and contexts all matter."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(batch, samples, generator=rng) * torch.linspace(0.02, 0.5, samples)


def close(a, b, tolerance=1e-4):
    assert a.shape == b.shape
    assert (a - b).abs().max() <= tolerance * b.abs().max()
