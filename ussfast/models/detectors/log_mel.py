"""The front end of detectors: what the published ones were trained on, a spectrogram on the mel scale in decibels.

Source: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor, nn

from ussfast import stft
from ussfast.errors import InputError
from ussfast.models.config import Rate
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig

FLOOR = 1e-10  # power in a band that silence counts as: -100 dB
# Slaney's scale: even steps up to 1 kHz, then even ratios, 27 of them from 1 to 6.4 kHz.
KNEE_HZ, STEP_HZ, STEP_LOG = 1000.0, 200.0 / 3, math.log(6.4) / 27


@dataclass(frozen=True)
class LogMelConfig(Checked):
    """Sizes in samples at the model's rate; mels: bands from fmin to fmax, in Hz."""

    sample_rate: Rate = 32000
    n_fft: Annotated[int, Range(16, 8192)] = 1024
    hop: Annotated[int, Range(1, 8192)] = 320
    mels: Annotated[int, Range(1, 512)] = 64
    fmin: Annotated[float, Range(0, 192_000)] = 50.0
    fmax: Annotated[float, Range(1, 192_000)] = 14000.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fmin < self.fmax <= self.sample_rate / 2:
            limit = f"half of the sample rate {self.sample_rate}"
            raise InputError(f"need fmin < fmax <= {limit}, got {self.fmin:g} and {self.fmax:g}")
        _ = self.stft  # checks n_fft and hop

    @property
    def stft(self) -> StftConfig:
        return StftConfig(self.n_fft, self.hop, self.n_fft, window="hann", padding="reflect")

    @property
    def frame_seconds(self) -> float:
        """From one frame to the next."""
        return self.hop / self.sample_rate

    def frame_count(self, samples: int) -> int:
        """Frames of so many samples."""
        return stft.frame_count(samples, self.stft)


class LogMel(nn.Module):
    """Waveforms to decibels per mel band. Nothing in it is trained, and nothing of it is in a state dict."""

    bands: Tensor

    def __init__(self, config: LogMelConfig):
        super().__init__()
        self.config = config
        self.register_buffer("bands", mel_bands(config), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Log-mel spectrogram.

        Args:
            audio: [clips, samples] float32 or float64 at `sample_rate`, at least one sample; fewer than n_fft/2 + 1 are
                filled up with zeros.
        Returns:
            [clips, frames, mels] in dB, at least -100; floor(samples/hop) + 1 frames, the first centred on the first
            sample.
        Raises:
            InputError: audio of another shape.
        """
        if audio.dim() != 2 or not audio.shape[-1]:
            raise InputError(f"detectors take audio [clips, samples], got {list(audio.shape)}")
        with torch.autocast(audio.device.type, enabled=False):  # decibels of quiet bands need float32
            spec = stft.analyze(audio, self.config.stft)
            return self.decibels(torch.view_as_real(spec).square().sum(-1))

    def decibels(self, power: Tensor) -> Tensor:
        """[clips, frames, bins] of power -> [clips, frames, mels] in dB."""
        return (power @ self.bands.to(power.dtype)).clamp(min=FLOOR).log10() * 10


def mel_bands(config: LogMelConfig) -> Tensor:
    """Triangles of equal area on Slaney's mel scale, float32 [bins, mels]: bin k is at k * sample_rate / n_fft.

    A band rises from its lower neighbour's centre to its own and falls to that of its upper neighbour; the first and
    the last one reach to fmin and fmax.
    """
    ends = torch.tensor([config.fmin, config.fmax], dtype=torch.float64)
    low, high = _to_mel(ends).tolist()
    corners = _to_hz(torch.linspace(low, high, config.mels + 2, dtype=torch.float64))
    below, centre, above = corners[:-2], corners[1:-1], corners[2:]
    bins = torch.arange(config.n_fft // 2 + 1, dtype=torch.float64) * (config.sample_rate / config.n_fft)
    rising = (bins[:, None] - below) / (centre - below)
    falling = (above - bins[:, None]) / (above - centre)
    triangles = torch.minimum(rising, falling).clamp(min=0)
    return (triangles * 2 / (above - below)).float()


def _to_mel(hz: Tensor) -> Tensor:
    above = KNEE_HZ / STEP_HZ + (hz.clamp(min=KNEE_HZ) / KNEE_HZ).log() / STEP_LOG
    return torch.where(hz < KNEE_HZ, hz / STEP_HZ, above)


def _to_hz(mel: Tensor) -> Tensor:
    knee = KNEE_HZ / STEP_HZ
    return torch.where(mel < knee, mel * STEP_HZ, KNEE_HZ * ((mel - knee) * STEP_LOG).exp())
