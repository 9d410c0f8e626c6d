"""Operations of a model, from its configuration alone: what a GFLOP/s figure divides by the time."""

from typing import Any

from ussfast.errors import InputError
from ussfast.models import BsLocoformerConfig, TfLocoformerConfig, TussConfig
from ussfast.models.band_split import tuss_bands
from ussfast.models.config import FfnConfig, StackConfig
from ussfast.stft import frame_count


def model_flop(config: Any, samples: int, sources: int, batch: int = 1) -> int:
    """Operations of one `SpectralModel.separate` call, a multiply-add as 2.

    Only products of matrices count, in whatever precision they run: linear layers, convolutions, attention. Norms,
    activations, rotations, masks and the STFTs do not. A convolution along a sequence has as many rows as the model's
    definition gives it: its zeros at the border count.

    Args:
        config: of any architecture.
        samples: of the waveform, at the model's rate.
        sources: number of prompts; models without prompts have a number of their own, and only that is right.
        batch: waveforms in the call.
    """
    frames = frame_count(samples, config.stft)
    if isinstance(config, TussConfig):
        return _tuss(config, frames, sources, batch)
    if sources != config.sources:
        raise InputError(f"sources {sources}: this model always returns {config.sources}")
    if isinstance(config, BsLocoformerConfig):
        bands = _bands(config)
        rows = batch * frames
        stacks = _stack(config.first, batch, frames, len(bands)) + _stack(config.second, batch, frames, len(bands))
        split = _band_split(config.stft.bins, config.first.dim, rows)
        return split + stacks + _band_merge(bands, config.first.dim, config.decoder_expansion, sources, rows)
    if isinstance(config, TfLocoformerConfig):
        bins, dim = config.stft.bins, config.stack.dim
        ends = 2 * 9 * dim * (2 + 2 * sources) * batch * frames * bins  # the 3x3 convolutions, with their padding
        return ends + _stack(config.stack, batch, frames, bins)
    raise TypeError(f"no count for {type(config).__name__}")


def _tuss(config: TussConfig, frames: int, sources: int, batch: int) -> int:
    bands, dim = _bands(config), config.cross_prompt.dim
    rows = sources + config.sos + frames  # prompts and the start row go through the first stack like frames
    return (
        _band_split(config.stft.bins, dim, batch * frames)
        + _stack(config.cross_prompt, batch, rows, len(bands))
        + _stack(config.extraction, batch * sources, frames, len(bands))
        + _band_merge(bands, dim, config.decoder_expansion, 1, batch * sources * frames)
    )


def _bands(config: TussConfig | BsLocoformerConfig) -> tuple[int, ...]:
    return config.bands or tuss_bands(config.sample_rate, config.stft.bins)


def _band_split(bins: int, dim: int, rows: int) -> int:
    return 2 * rows * 2 * bins * dim


def _band_merge(bands: tuple[int, ...], dim: int, expansion: int, sources: int, rows: int) -> int:
    hidden = expansion * dim
    return 2 * rows * hidden * (len(bands) * (dim + hidden) + 4 * sum(bands) * sources)


def _stack(config: StackConfig, batch: int, frames: int, bands: int) -> int:
    along_freq = batch * frames * _layer(config, config.freq_ffn, bands)
    along_time = batch * bands * _layer(config, config.time_ffn, frames)
    return config.blocks * (along_freq + along_time)


def _layer(config: StackConfig, ffns: tuple[FfnConfig, ...], length: int) -> int:
    """One path of one block, on one sequence."""
    projections = 2 * length * config.dim * 4 * config.attention_dim  # queries, keys, values and the way out
    attention = 2 * 2 * length * length * config.attention_dim
    return projections + attention + sum(_ffn(config.dim, ffn, length) for ffn in ffns)


def _ffn(dim: int, ffn: FfnConfig, length: int) -> int:
    steps = -(-(length + ffn.kernel - ffn.stride) // ffn.stride)
    return 2 * steps * 3 * ffn.hidden * dim * ffn.kernel  # value, gate, and the transposed convolution
