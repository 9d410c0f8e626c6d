"""Operations of a model, from its configuration alone: what a GFLOP/s figure divides by the time."""

from typing import Any

from ussfast.errors import InputError
from ussfast.models import (
    AspUnetConfig,
    BsLocoformerConfig,
    CausalConfig,
    ChimeraConfig,
    TfLocoformerConfig,
    TussConfig,
)
from ussfast.models.band_split import tuss_bands
from ussfast.models.config import FfnConfig, StackConfig
from ussfast.models.sfc import SfcConfig, band_edges
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
    if isinstance(config, CausalConfig):
        return _causal(config, frames, sources, batch)
    if isinstance(config, AspUnetConfig):
        return sources * _asp_unet(config, frames, batch)
    if sources != config.sources:
        raise InputError(f"sources {sources}: this model always returns {config.sources}")
    if isinstance(config, BsLocoformerConfig):
        bands, ends = _ends(config, config.first.dim, batch * frames, 1, sources, config.channels)
        return ends + sum(
            _stack(stack, batch, frames, bands) for stack in (config.first, config.second) if stack is not None
        )
    if isinstance(config, TfLocoformerConfig):
        bins, dim = config.stft.bins, config.stack.dim
        ends = 2 * 9 * dim * (2 + 2 * sources) * batch * frames * bins  # the 3x3 convolutions, with their padding
        return ends + _stack(config.stack, batch, frames, bins)
    if isinstance(config, ChimeraConfig):
        return batch * frames * _chimera(config)
    raise TypeError(f"no count for {type(config).__name__}")


def _tuss(config: TussConfig, frames: int, sources: int, batch: int) -> int:
    bands, ends = _ends(config, config.cross_prompt.dim, batch * frames, sources, 1, 1)
    rows = sources + config.sos + frames  # prompts and the start row go through the first stack like frames
    return (
        ends
        + _stack(config.cross_prompt, batch, rows, bands)
        + _stack(config.extraction, batch * sources, frames, bands)
    )


def _causal(config: CausalConfig, frames: int, sources: int, batch: int) -> int:
    dim, bands, bins, features = config.dim, len(config.bands), config.stft.bins, config.features
    rows, ffn = batch * frames, bands * 7 * config.hidden * dim  # a kernel of 3 into twice the width, and back
    attention, recurrence = bands * dim * (4 * dim + 2 * bands), bands * dim * 4 * dim
    # Along time, the convolution has the two frames before the first as rows of its norm only.
    trunk = bins * features * (27 + dim) + config.blocks * (2 * ffn + attention + recurrence)
    decoder = 2 * dim * (bands * (2 * dim + 2 * features) + 2 * bins) + 2 * bins * features
    head = ffn + decoder
    modulation = bands * dim * 2 * dim + dim * 2 * dim + bands * 2 * dim * 2 * dim
    return 2 * (rows * (trunk + sources * head) + sources * modulation)


def _asp_unet(config: AspUnetConfig, frames: int, batch: int) -> int:
    """For one prompt, whose biases are computed once for the batch. A transposed convolution has no products with the
    zeros between pixels."""
    channels, depth = config.encoder_channels, len(config.encoder_channels)
    biases = 5 * sum(channels) + 2 * config.center_channels + 2 * channels[0]
    pixels = -(-frames // config.factor) * config.factor * (config.stft.bins - 1)
    taps = 0  # products of 3x3 convolutions, over 9
    for level, (before, width) in enumerate(zip((1, *channels[:-1]), channels, strict=True)):
        size = pixels >> 2 * level
        below = channels[level + 1] if level + 1 < depth else config.center_channels
        encoder, decoder, up = before * width + width**2, 2 * width**2 + width**2, below * width
        taps += size * (encoder + decoder) + (size >> 2) * up
    center = channels[-1] * config.center_channels + config.center_channels**2
    taps += (pixels >> 2 * depth) * center + pixels * 2 * channels[0] ** 2
    return 2 * (batch * (9 * taps + frames * (config.stft.bins - 1) * channels[0]) + biases * config.latent_dim)


def _chimera(config: ChimeraConfig) -> int:
    """For one frame; of the heads, the one that makes the masks."""
    gates, directions = 4 if config.cell == "lstm" else 3, 2 if config.bidirectional else 1
    seen = config.stft.bins + (config.layers - 1) * config.width  # by all layers
    recurrent = directions * gates * config.hidden * (seen + config.layers * config.hidden)
    head = config.width * config.stft.bins * (config.sources if config.masks else config.embedding)
    return 2 * (recurrent + head)


def _ends(
    config: TussConfig | BsLocoformerConfig, dim: int, rows: int, copies: int, sources: int, channels: int
) -> tuple[int, int]:
    """Number of bands, and the operations of the encoder on `rows` frames and the decoder on `copies` of each."""
    bins = config.stft.bins
    if config.sfc is not None:
        bands = len(band_edges(config.sfc, config.stft, config.sample_rate))
        encoder = _sfc_encoder(config.sfc, rows, bins, bands, 2 * channels, dim)
        return bands, encoder + _sfc_decoder(config.sfc, rows, copies, bins, bands, dim, 2 * sources * channels)
    widths = config.bands or tuss_bands(config.sample_rate, bins)
    merge = _band_merge(widths, dim, config.decoder_expansion, sources, rows * copies)
    return len(widths), _band_split(bins, dim, rows) + merge


def _sfc_encoder(sfc: SfcConfig, rows: int, bins: int, bands: int, channels: int, dim: int) -> int:
    adaptive = sfc.query == "adaptive"
    means = 2 * rows * bands * bins * sfc.dim if adaptive else 0
    convolutions = _conv(channels, sfc.dim, bins) + _conv(sfc.dim, dim, bands)
    return means + rows * convolutions + _cross_attention(sfc, rows, rows if adaptive else 1, bands, bins)


def _sfc_decoder(sfc: SfcConfig, rows: int, copies: int, bins: int, bands: int, dim: int, channels: int) -> int:
    adaptive, every = sfc.query == "adaptive", rows * copies
    queries = 2 * rows * bins * 3 * sfc.dim * 2 * sfc.dim if adaptive else 0
    convolutions = _conv(dim, sfc.dim, bands) + _conv(sfc.dim, channels, bins)
    return queries + every * convolutions + _cross_attention(sfc, every, every if adaptive else 1, bins, bands)


def _conv(width_in: int, width_out: int, positions: int) -> int:
    return 2 * 9 * width_in * width_out * positions


def _cross_attention(sfc: SfcConfig, rows: int, query_rows: int, queries: int, keys: int) -> int:
    """query_rows: 1 where all rows share their queries."""
    projections = 2 * sfc.dim**2 * (query_rows * queries + 2 * rows * keys + rows * queries)
    attention = 2 * 2 * rows * queries * keys * sfc.dim
    return projections + attention + 2 * rows * queries * 3 * sfc.ffn * sfc.dim**2


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
