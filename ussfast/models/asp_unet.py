"""ASP U-Net: a mask for what one vector describes, by a U-Net over magnitudes whose layers the vector shifts.

Source: Chen et al., "Zero-shot audio source separation through query-based learning from weakly-labeled data", AAAI
2022.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError, PromptError
from ussfast.models._base import Conditioning, SpectralModel
from ussfast.models._folded import EPS, MOMENTUM, NormedConv, as_scale
from ussfast.models._packed import Preparable
from ussfast.models.config import LevelConfig, Rate, Seconds, Width
from ussfast.ops._scan import unknown
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class AspUnetConfig(Checked):
    """latent_dim: numbers of a prompt's vector.

    encoder_channels: of the encoder's blocks; the decoder has the same in reverse. center_channels: of the block
        between them.
    """

    sample_rate: Rate = 32000
    stft: StftConfig = StftConfig(2048, 320, 2048, window="hann", padding="reflect")
    latent_dim: Width = 2048
    encoder_channels: Annotated[tuple[Width, ...], Range(1, 12)] = (32, 64, 128, 256, 512, 1024)
    center_channels: Width = 2048
    level: LevelConfig = LevelConfig(enabled=False)
    segment_seconds: Seconds = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.stft.bins - 1) % self.factor:
            raise InputError(
                f"n_fft / 2 must be a multiple of {self.factor}, 2 to the number of encoder_channels, "
                f"got n_fft {self.stft.n_fft}"
            )

    @property
    def factor(self) -> int:
        """Frames and bins that become one in the middle of the network."""
        return 2 ** len(self.encoder_channels)


class ConvBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, latent_dim: int):
        super().__init__()
        self.first = NormedConv(channels_in, channels_out, latent_dim)
        self.second = NormedConv(channels_out, channels_out, latent_dim)

    def forward(self, x: Tensor, biases: Iterator[Tensor]) -> Tensor:
        """[rows, channels, frames, bins]; takes as many biases as it has layers."""
        return self.second(self.first(x, next(biases)), next(biases))


class DecoderBlock(nn.Module):
    def __init__(self, channels_in: int, channels_out: int, latent_dim: int):
        super().__init__()
        self.up = NormedConv(channels_in, channels_out, latent_dim, up=True)
        self.block = ConvBlock(2 * channels_out, channels_out, latent_dim)

    def forward(self, x: Tensor, skip: Tensor, biases: Iterator[Tensor]) -> Tensor:
        return self.block(torch.cat((self.up(x, next(biases)), skip), 1), biases)


class BinNorm(Preparable):
    """Batch normalisation of each bin of a magnitude, without a logarithm."""

    def __init__(self, bins: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(bins, eps=EPS, momentum=MOMENTUM)

    def prepare(self, precision: str, pack: bool = True) -> None:
        self._prepared = as_scale(self.norm)

    def forward(self, magnitude: Tensor) -> Tensor:
        """[batch, frames, bins]."""
        if self.training or torch.is_grad_enabled():
            return self.norm(magnitude.transpose(1, 2)[..., None])[..., 0].transpose(1, 2)
        scale, shift = as_scale(self.norm) if self._prepared is None else self._prepared
        return torch.addcmul(shift, magnitude, scale)


class AspUnet(SpectralModel):
    """Its prompts are vectors of `latent_dim` numbers, such as an audio tagger makes of example clips; it has none of
    its own.

    The mask of the highest bin is 0.5: the network does not see that bin.
    """

    equal_prompts = 1  # each is separated by itself

    def __init__(self, config: AspUnetConfig):
        super().__init__()
        self.config, self.prompt_size = config, config.latent_dim
        latent, channels, center = config.latent_dim, config.encoder_channels, config.center_channels
        self.bin_norm = BinNorm(config.stft.bins)
        self.encoder = nn.ModuleList(
            ConvBlock(a, b, latent) for a, b in zip((1, *channels[:-1]), channels, strict=True)
        )
        self.center = ConvBlock(channels[-1], center, latent)
        back = channels[::-1]
        self.decoder = nn.ModuleList(
            DecoderBlock(a, b, latent) for a, b in zip((center, *back[:-1]), back, strict=True)
        )
        self.after = ConvBlock(channels[0], channels[0], latent)
        self.out = nn.Conv2d(channels[0], 1, 1)
        nn.init.xavier_uniform_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def layers(self) -> list[NormedConv]:
        """All that have a bias for each prompt, in the order of `condition`."""
        return [module for module in self.modules() if isinstance(module, NormedConv)]

    def condition(self, prompts: Tensor) -> Conditioning:
        """The biases of all layers, [(batch,) sources, biases], of vectors [(batch,) sources, latent_dim]."""
        vectors = prompts.to(self.out.weight.device, self.dtype)
        return Conditioning(torch.cat([layer.emb(vectors) for layer in self.layers()], -1))

    def forward(self, spec: Tensor, prompts: Tensor | Conditioning | None) -> Tensor:
        """[batch, frames, bins] complex, prompts [(batch,) sources, latent_dim] or what `condition` made of them ->
        masks [batch, sources, frames, bins, 2], real ones.

        Raises:
            PromptError: no prompts, or vectors of another size.
        """
        size = self.config.latent_dim
        if prompts is None:
            raise PromptError(f"the model needs prompts, vectors of {size} numbers")
        if not isinstance(prompts, Conditioning):
            if prompts.shape[-1] != size:
                raise PromptError(f"the model needs vectors of {size} numbers, not {prompts.shape[-1]}")
            prompts = self.condition(prompts)
        mask = self._logits(spec.abs(), prompts.rows.expand(spec.shape[0], *prompts.rows.shape[-2:])).sigmoid()
        mask = F.pad(mask, (0, 1), value=0.5)
        return torch.stack((mask, torch.zeros_like(mask)), -1)

    def _logits(self, magnitude: Tensor, rows: Tensor) -> Tensor:
        """[batch, frames, bins], [batch, sources, biases] -> [batch, sources, frames, bins - 1], float32."""
        batch, frames = magnitude.shape[:2]
        sources = rows.shape[1]
        # Padded after the norm: the zeros are those of normed bins.
        x, factor = self.bin_norm(magnitude)[..., :-1], self.config.factor
        if unknown(frames):  # a size that is known to be a multiple, whatever frames are
            x = F.pad(x, (0, 0, 0, factor - 1)).narrow(1, 0, (frames + factor - 1) // factor * factor)[:, None]
        else:
            x = F.pad(x, (0, 0, 0, -frames % factor))[:, None]
        learning = torch.is_grad_enabled() and self.after.second._prepared is None  # weights too, or being traced
        if magnitude.device.type == "cpu" and not learning:
            # More rows at once are no faster on a CPU, and need more memory.
            each = [self._rows(x[i : i + 1], rows[i, j : j + 1], frames) for i in range(batch) for j in range(sources)]
            out = torch.cat(each)
        else:
            items = x[:, None].expand(-1, sources, -1, -1, -1).flatten(0, 1)
            out = self._rows(items, rows.flatten(0, 1), frames)
        return out.unflatten(0, (batch, sources))

    def _rows(self, x: Tensor, rows: Tensor, frames: int) -> Tensor:
        """[rows, 1, padded frames, bins - 1], [rows, biases] -> [rows, frames, bins - 1]."""
        layers = self.layers()
        biases = iter(rows.split([layer.channels for layer in layers], -1))
        skips: list[Tensor] = []
        for encode in self.encoder:
            x = encode(x, biases)
            skips.append(x)
            x = F.avg_pool2d(x, 2)
        x = self.center(x, biases)
        for decode in self.decoder:
            x = decode(x, skips.pop(), biases)
        x = self.after(x, biases)[:, :, :frames]
        # One output channel is a product of a matrix and a vector; the logits stay float32.
        with torch.autocast(x.device.type, enabled=False):
            weight = self.out.weight.flatten(1)
            return F.linear(x.permute(0, 2, 3, 1).to(weight.dtype), weight, self.out.bias)[..., 0]
