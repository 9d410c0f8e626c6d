"""TUSS: learnable prompts attend with the mixture's frames, then each conditions its own extraction.

Source: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ussfast.errors import InputError, PromptError
from ussfast.models._ends import BandModel, check_ends
from ussfast.models.config import Bands, Expansion, LevelConfig, Names, Rate, Seconds, StackConfig, check_prompts
from ussfast.models.locoformer import Stack
from ussfast.models.sfc import SfcConfig
from ussfast.plain import Checked
from ussfast.stft import StftConfig


@dataclass(frozen=True)
class TussConfig(Checked):
    """bands: widths in bins, low to high; None takes the published rule for the sample rate.

    decoder_expansion: width of the decoder's hidden layers in multiples of dim.
    segment_seconds: window that the model was trained on, the default for long audio.
    sfc: encoder and decoder by spectral feature compression; None is the band split.
    """

    sample_rate: Rate
    stft: StftConfig
    prompts: Names
    cross_prompt: StackConfig
    extraction: StackConfig
    sos: bool = True
    bands: Bands | None = None
    decoder_expansion: Expansion = 4
    level: LevelConfig = LevelConfig()
    segment_seconds: Seconds = 6.0
    sfc: SfcConfig | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_prompts(self.prompts)
        if self.cross_prompt.dim != self.extraction.dim:
            raise InputError(
                f"both stacks need the same dim, got {self.cross_prompt.dim} and {self.extraction.dim}"
            )
        check_ends(self.bands, self.sfc, self.stft, self.sample_rate)


class Tuss(BandModel):
    def __init__(self, config: TussConfig):
        super().__init__()
        self.config = config
        self.prompt_names = config.prompts
        # Attention without positions treats equal tokens alike.
        self.equal_prompts = None if config.cross_prompt.rope else 1
        dim = self.prompt_size = config.cross_prompt.dim
        self.encoder = self.make_encoder(config, dim)
        self.prompts = nn.Parameter(torch.randn(len(config.prompts), dim))
        self.sos = nn.Parameter(torch.randn(dim)) if config.sos else None
        self.cross_prompt = Stack(config.cross_prompt)
        self.extraction = Stack(config.extraction)
        self.decoder = self.make_decoder(config, dim, sources=1)

    def prompt_vectors(self, names: tuple[str, ...]) -> Tensor:
        unknown = [name for name in names if name not in self.prompt_names]
        if unknown or not names:
            raise PromptError(f"unknown prompts {unknown}; the model knows {list(self.prompt_names)}")
        return self.prompts[[self.prompt_names.index(name) for name in names]]

    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """[batch, frames, bins] complex, prompts [(batch,) sources, dim] -> masks [batch, sources, frames, bins, 2]."""
        if prompts is None:
            raise PromptError(f"a TUSS model needs prompts; it knows {list(self.prompt_names)}")
        return self.behind(self.ahead(spec), prompts)

    def ahead(self, spec: Tensor) -> tuple[Tensor, ...]:
        """Band tokens [batch, frames, bands, dim], and those of bins where the decoder needs them."""
        frames, bin_tokens = self.encode(spec)
        return (frames,) if bin_tokens is None else (frames, bin_tokens)

    def behind(self, ahead: tuple[Tensor, ...], prompts: Tensor) -> Tensor:
        frames, bin_tokens = ahead[0], ahead[1] if len(ahead) > 1 else None
        batch, _, bands, dim = frames.shape
        sources = prompts.shape[-2]
        rows = prompts.to(frames.dtype).expand(batch, sources, dim)
        if self.sos is not None:
            rows = torch.cat((rows, self.sos.expand(batch, 1, dim)), 1)
        rows = rows[:, :, None].expand(-1, -1, bands, -1)
        mixed = self.cross_prompt(torch.cat((rows, frames), 1))
        # The SOS row has done its work inside the stack; prompts scale every frame, band by band.
        conditioned = mixed[:, None, rows.shape[1] :] * mixed[:, :sources, None]
        masks = self.decode(self.extraction(conditioned.flatten(0, 1)), bin_tokens)
        return masks[:, 0].unflatten(0, (batch, sources))
