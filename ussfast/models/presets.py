"""Configurations of the published models, by name."""

import difflib
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch

from ussfast.errors import InputError
from ussfast.models import SpectralModel, build
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.chimera import ChimeraConfig
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig
from ussfast.models.sfc import SfcConfig
from ussfast.models.tflocoformer import TfLocoformerConfig
from ussfast.models.tuss import TussConfig
from ussfast.stft import StftConfig

T = TypeVar("T")

TUSS_PROMPTS = ("speech", "sfx", "sfxbg", "drums", "bass", "vocals", "other", "musicbg")
TUSS_STFT = StftConfig(n_fft=2048, hop=512, window_length=2048)


def _tuss_stack(blocks: int, dim: int, heads: int, attention_dim: int, hidden: int, time_kernel: int) -> StackConfig:
    freq, time = FfnConfig(hidden, kernel=4), FfnConfig(hidden, kernel=time_kernel)
    return StackConfig(
        blocks=blocks,
        dim=dim,
        groups=8,
        heads=heads,
        attention_dim=attention_dim,
        freq_ffn=(freq, freq),
        time_ffn=(time, time),
    )


def _tuss(dim: int, heads: int, blocks: int, extraction_blocks: int) -> TussConfig:
    # Kernel 1 along time in the first stack keeps convolutions from smearing prompts into frames.
    return TussConfig(
        sample_rate=48000,
        stft=TUSS_STFT,
        prompts=TUSS_PROMPTS,
        cross_prompt=_tuss_stack(blocks, dim, heads, 2 * dim, 384, time_kernel=1),
        extraction=_tuss_stack(extraction_blocks, dim, heads, 3 * dim // 2, 256, time_kernel=4),
    )


def _conventional(dim: int, heads: int, blocks: int) -> BsLocoformerConfig:
    # The published large model took depth and attention width of its second stack from the medium one.
    return BsLocoformerConfig(
        sample_rate=48000,
        stft=TUSS_STFT,
        sources=4,
        first=_tuss_stack(blocks, dim, heads, 2 * dim, 384, time_kernel=1),
        second=_tuss_stack(2, dim, heads, 96, 256, time_kernel=4),
    )


def _tflocoformer(
    sample_rate: int, n_fft: int, hop: int, sources: int, blocks: int, dim: int, hidden: int, kernel: int
) -> TfLocoformerConfig:
    ffn = FfnConfig(hidden, kernel)
    return TfLocoformerConfig(
        sample_rate=sample_rate,
        stft=StftConfig(n_fft, hop, window_length=n_fft, window="hann", padding="reflect"),
        sources=sources,
        stack=StackConfig(
            blocks=blocks,
            dim=dim,
            groups=4,
            heads=4,
            attention_dim=128,
            freq_ffn=(ffn, ffn),
            time_ffn=(ffn, ffn),
        ),
    )


SFC_LEVEL = LevelConfig(eps=1e-15, domain="stft")
SFC_LABELS = {"musdb18hq": ("bass", "drums", "vocals", "other"), "dnr": ("speech", "music", "sfx")}


def _sfc(data: str, medium: bool = False, query: Literal["learnable", "adaptive"] = "learnable") -> BsLocoformerConfig:
    dim, heads, ffn = (128, 8, FfnConfig(192, 8)) if medium else (96, 4, FfnConfig(128, 8))
    return BsLocoformerConfig(
        sample_rate=44100,
        stft=StftConfig(2048, 512, 2048, window="hann", padding="reflect", drop_last_frame=True),
        sources=len(SFC_LABELS[data]),
        first=StackConfig(
            blocks=6 if medium else 4,
            dim=dim,
            groups=heads,
            heads=heads,
            attention_dim=dim,
            freq_ffn=(ffn, ffn),
            time_ffn=(ffn, ffn),
            rope=False,
        ),
        level=SFC_LEVEL,
        labels=SFC_LABELS[data],
        segment_seconds=12.0,
        sfc=SfcConfig(dim=96 if medium else 64, heads=4, query=query),
        channels=2 if data == "musdb18hq" else 1,
    )


_WSJ0 = _tflocoformer(8000, 128, 64, sources=2, blocks=6, dim=128, hidden=384, kernel=4)
_WHAMR_SMALL = _tflocoformer(8000, 256, 64, sources=2, blocks=4, dim=96, hidden=128, kernel=8)

Published = TussConfig | BsLocoformerConfig | TfLocoformerConfig | AspUnetConfig | ChimeraConfig

PRESETS: dict[str, Published] = {
    "tuss-medium": _tuss(dim=64, heads=4, blocks=4, extraction_blocks=2),
    "tuss-large": _tuss(dim=128, heads=8, blocks=6, extraction_blocks=3),
    "conventional-medium": _conventional(dim=64, heads=4, blocks=4),
    "conventional-large": _conventional(dim=128, heads=8, blocks=6),
    "tflocoformer-s": _WHAMR_SMALL,
    "tflocoformer-m": _WSJ0,
    "tflocoformer-l": _tflocoformer(8000, 128, 64, sources=2, blocks=9, dim=128, hidden=384, kernel=4),
    "tflocoformer-wsj0": _WSJ0,
    "tflocoformer-librimix": _WSJ0,
    "tflocoformer-whamr": _tflocoformer(8000, 256, 64, sources=2, blocks=6, dim=128, hidden=192, kernel=8),
    "tflocoformer-whamr-small": _WHAMR_SMALL,
    "tflocoformer-dns": _tflocoformer(16000, 256, 128, sources=1, blocks=6, dim=128, hidden=384, kernel=4),
    "sfc-musdb18hq-small": _sfc("musdb18hq"),
    "sfc-musdb18hq-small-adaptive": _sfc("musdb18hq", query="adaptive"),
    "sfc-musdb18hq-medium": _sfc("musdb18hq", medium=True),
    "sfc-dnr-small": _sfc("dnr"),
    "sfc-dnr-medium": _sfc("dnr", medium=True),
    "asp-unet": AspUnetConfig(),
    "chimera": ChimeraConfig(),
    "chimera-wham": ChimeraConfig(8000, StftConfig(256, 64, 256, normalize="window"), hidden=600),
}
"""Sizes s, m, l of the TF-Locoformer paper are the WHAMR! small, the WSJ0-2mix and the nine-block variant."""


def preset(name: str) -> Published:
    """The configuration of that name; InputError with the nearest names if there is none."""
    return look_up(name, PRESETS, "preset")


def look_up(name: str, known: Mapping[str, T], what: str) -> T:
    """What has this name; InputError with the nearest names if nothing has."""
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"
        raise InputError(f"no {what} {name!r}; {hint}")
    return known[name]


def random_model(name: str, seed: int) -> SpectralModel:
    """A model of that preset with random weights; the caller's generator is left alone."""
    config = preset(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build(config)
