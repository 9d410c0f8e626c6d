"""What graphs compute: models as functions of real tensors; what is remembered goes in and comes out."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.export.spectra import Analysis, Synthesis, forward_matrix, inverse_matrix
from ussfast.models import SpectralModel
from ussfast.models.causal import CausalModel, Modulation, TrunkState
from ussfast.models.detectors import DetectorModel


class Estimates(nn.Module):
    """`SpectralModel.forward` of [batch, (channels,) frames, bins, 2]."""

    def __init__(self, model: SpectralModel):
        super().__init__()
        self.model = model

    def forward(self, spec: Tensor, prompts: Tensor | None = None) -> Tensor:
        return self.model(torch.view_as_complex(spec), prompts)


class Waveforms(nn.Module):
    """Audio [batch, (channels,) samples] -> [batch, sources, (channels,) samples]; level and transforms inside."""

    def __init__(self, model: SpectralModel):
        super().__init__()
        self.model = model
        self.analysis, self.synthesis = Analysis(model.config.stft), Synthesis(model.config.stft)

    def forward(self, audio: Tensor, prompts: Tensor | None = None) -> Tensor:
        model = self.model
        config, level, channels = model.config.stft, model.config.level, model.channels
        batch, samples = audio.shape[0], audio.shape[-1]
        scale = None
        if level.enabled and level.domain == "waveform":
            scale = audio.flatten(1).std(-1) + level.eps
            audio = audio / scale.view(-1, *[1] * (audio.dim() - 1))
        spec = self.analysis(audio.flatten(0, -2))
        if level.enabled and level.domain != "waveform":
            power = spec.square().sum(-1).clamp(min=level.eps)
            scale = power.mean((1, 2)).view(-1, channels).mean(1).sqrt()
            spec = spec / scale.repeat_interleave(channels)[:, None, None, None]
        if config.drop_last_frame:
            spec = spec[:, :-1]
        if channels == 1:
            out = self.synthesis(self._spectra(spec, prompts), samples)
        else:
            estimate = self._spectra(spec.unflatten(0, (batch, channels)), prompts)
            rows = self.synthesis(estimate.transpose(1, 2).flatten(0, 1), samples)
            out = rows.unflatten(0, (batch, channels)).transpose(1, 2)
        return out if scale is None else out * scale.view(-1, *[1] * (out.dim() - 1))

    def _spectra(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        estimate = self.model(torch.view_as_complex(spec), prompts)
        return times(estimate, spec[:, None]) if self.model.masking else estimate


class Prompts(nn.Module):
    """What a causal model computes from prompt vectors [batch, sources, dim]: scale and shift, as `Modulation`."""

    def __init__(self, model: CausalModel):
        super().__init__()
        self.model = model

    def forward(self, prompts: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.condition(prompts)
        return found.scale, found.shift


class Frames(nn.Module):
    """`CausalModel.advance`: spec [batch, frames, bins, 2] -> masks [batch, sources, frames, bins, 2], the state."""

    def __init__(self, model: CausalModel):
        super().__init__()
        self.model = model

    def forward(self, spec: Tensor, scale: Tensor, shift: Tensor, *state: Tensor) -> tuple[Tensor, ...]:
        asked = Modulation(scale, shift, torch.empty(0))
        masks, after = self.model.advance(torch.view_as_complex(spec), asked, as_state(state))
        return masks, *as_tensors(after)


class Hop(nn.Module):
    """`hop.step`: audio [batch, hop] -> sources [batch, sources, hop], and the state, first context and overlap."""

    into: Tensor
    back: Tensor
    norm: Tensor

    def __init__(self, model: CausalModel):
        super().__init__()
        self.model = model
        config = model.config.stft
        self.register_buffer("into", forward_matrix(config), persistent=False)
        self.register_buffer("back", inverse_matrix(config))
        # Every sample lies in two frames: the sum of squared windows repeats with the hop.
        self.register_buffer("norm", stft.window(config).square().view(2, -1).sum(0))

    def forward(
        self, audio: Tensor, scale: Tensor, shift: Tensor, context: Tensor, overlap: Tensor, *state: Tensor
    ) -> tuple[Tensor, ...]:
        hop = self.model.config.stft.hop
        spec = torch.stack((torch.cat((context, audio), 1) @ self.into).chunk(2, -1), -1)
        asked = Modulation(scale, shift, torch.empty(0))
        masks, after = self.model.advance(torch.view_as_complex(spec[:, None]), asked, as_state(state))
        late = torch.cat(times(masks[:, :, 0], spec[:, None]).unbind(-1), -1) @ self.back
        out = (overlap + late[..., :hop]) / self.norm
        # Outputs of their own: a runtime may put an input that is handed through anywhere.
        return out, audio * 1.0, late[..., hop:], *as_tensors(after)


class Detects(nn.Module):
    """Audio [batch, samples] -> tags, frames if there are any, embedding; as `Detection`."""

    def __init__(self, model: DetectorModel):
        super().__init__()
        self.model: Any = model
        self.analysis = Analysis(cast(Any, model).front.config.stft)

    def forward(self, audio: Tensor) -> tuple[Tensor, ...]:
        found = self.model.analyse(self.model.front.decibels(self.analysis(audio).square().sum(-1)))
        return tuple(part for part in found if part is not None)


def times(a: Tensor, b: Tensor) -> Tensor:
    """The product of complex numbers as pairs."""
    (a_re, a_im), (b_re, b_im) = a.unbind(-1), b.unbind(-1)
    return torch.stack((a_re * b_re - a_im * b_im, a_re * b_im + a_im * b_re), -1)


def state_names(model: CausalModel) -> list[str]:
    """Of the tensors of a `TrunkState`, in order."""
    blocks = [f"{what}{i}" for i in range(model.config.blocks) for what in ("memory", "past")]
    return ["level", "features", *blocks]


def as_tensors(state: TrunkState) -> tuple[Tensor, ...]:
    # A size beside the batch: Triton's server makes zeros for no other state.
    return (state.level[:, None], state.features, *(tensor for block in state.blocks for tensor in block))


def as_state(tensors: tuple[Tensor, ...]) -> TrunkState:
    level, features, *rest = tensors
    return TrunkState(level[:, 0], features, tuple(zip(rest[::2], rest[1::2], strict=True)))
