"""Networks over band tokens, between either kind of encoder and decoder: band split and merge, or SFC."""

from typing import Any

import torch
from torch import Tensor

from ussfast.errors import InputError
from ussfast.models._base import SpectralModel
from ussfast.models.band_split import BandMerge, BandSplit, tuss_bands
from ussfast.models.sfc import SfcConfig, SfcDecoder, SfcEncoder, band_edges
from ussfast.stft import StftConfig


class BandModel(SpectralModel):
    """A model whose config has `bands`, `decoder_expansion` and `sfc`; its network works on band tokens."""

    encoder: BandSplit | SfcEncoder
    decoder: BandMerge | SfcDecoder

    def make_encoder(self, config: Any, dim: int) -> BandSplit | SfcEncoder:
        """Uses `channels`."""
        if config.sfc is None:
            return BandSplit(_bands(config), dim)
        edges = band_edges(config.sfc, config.stft, config.sample_rate)
        return SfcEncoder(config.sfc, edges, config.stft.bins, 2 * self.channels, dim)

    def make_decoder(self, config: Any, dim: int, sources: int) -> BandMerge | SfcDecoder:
        """sources: that it makes of one sequence of tokens."""
        self.sources = sources
        if config.sfc is None:
            return BandMerge(_bands(config), dim, sources, config.decoder_expansion)
        edges = band_edges(config.sfc, config.stft, config.sample_rate)
        return SfcDecoder(config.sfc, edges, config.stft.bins, 2 * sources * self.channels, dim)

    def encode(self, spec: Tensor) -> tuple[Tensor, Tensor | None]:
        """[batch, (channels,) frames, bins] complex -> band tokens [batch, frames, bands, dim], and what SFC's adaptive
        decoder needs to know of the bins."""
        if isinstance(self.encoder, BandSplit):
            return self.encoder(spec), None
        # Real parts of all channels, then imaginary parts.
        pairs = torch.view_as_real(spec)
        planes = (pairs if spec.dim() == 4 else pairs[:, None]).permute(0, 2, 3, 4, 1).flatten(-2)
        tokens, bin_tokens = self.encoder(planes)
        return tokens, bin_tokens if self.config.sfc.query == "adaptive" else None

    def decode(self, tokens: Tensor, bin_tokens: Tensor | None) -> Tensor:
        """[rows, frames, bands, dim] -> masks [rows, sources, (channels,) frames, bins, 2]; rows of an item adjoin."""
        if isinstance(self.decoder, BandMerge):
            return self.decoder(tokens)
        factors = (2, self.sources, self.channels)
        masks = self.decoder(tokens, bin_tokens).unflatten(-1, factors).permute(0, 4, 5, 1, 2, 3)
        return masks if self.channels > 1 else masks[:, :, 0]


def check_ends(bands: tuple[int, ...] | None, sfc: SfcConfig | None, stft: StftConfig, sample_rate: int) -> None:
    """InputError if the bands do not fit the spectrum."""
    if sfc is not None:
        if bands is not None:
            raise InputError("bands are those of the band split; with sfc, its own settings give them")
        band_edges(sfc, stft, sample_rate)
    elif bands is not None and (sum(bands) != stft.bins or min(bands, default=0) < 1):
        raise InputError(f"bands must be positive and sum to {stft.bins} bins, got a sum of {sum(bands)}")


def _bands(config: Any) -> tuple[int, ...]:
    return config.bands or tuss_bands(config.sample_rate, config.stft.bins)
