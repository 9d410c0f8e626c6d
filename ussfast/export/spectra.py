"""The transforms in graphs, in real numbers: DFTs as products of matrices, frames as slices, sums as shifted additions.

An operator for transforms is in few runtimes, and a transposed convolution for the overlap-add is slow in TensorRT.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast import stft
from ussfast.ops.stft_mask import NOTHING
from ussfast.stft import StftConfig


def forward_matrix(config: StftConfig) -> Tensor:
    """[n_fft, 2 * bins]: a frame times this is its windowed spectrum, real parts first; float32."""
    times, bins = torch.arange(config.n_fft).double(), torch.arange(config.bins).double()
    angles = times[:, None] * bins * (-2 * math.pi / config.n_fft)
    matrix = torch.cat((angles.cos(), angles.sin()), 1) * _window(config)[:, None]
    return (matrix * _norm(config)).float()


def inverse_matrix(config: StftConfig) -> Tensor:
    """[2 * bins, n_fft]: a spectrum, real parts first, times this is its windowed frame; float32."""
    times, bins = torch.arange(config.n_fft).double(), torch.arange(config.bins).double()
    angles = bins[:, None] * times * (2 * math.pi / config.n_fft)
    # Bins that stand for two, the mirrored one too, count twice.
    once = (bins == 0) | (bins * 2 == config.n_fft)
    weight = torch.where(once, 1.0, 2.0)[:, None] / config.n_fft
    matrix = torch.cat((angles.cos() * weight, -angles.sin() * weight)) * _window(config)
    return (matrix / _norm(config)).float()


def _window(config: StftConfig) -> Tensor:
    """float64 [n_fft], zeros around a shorter one."""
    short = stft.window(config).double()
    left = (config.n_fft - config.window_length) // 2
    return F.pad(short, (left, config.n_fft - config.window_length - left))


def _norm(config: StftConfig) -> float:
    return config.n_fft**-0.5 if config.normalize == "default" else 1.0


class Analysis(nn.Module):
    """`stft.analyze` in real numbers."""

    matrix: Tensor

    def __init__(self, config: StftConfig):
        super().__init__()
        self.config = config
        self.register_buffer("matrix", forward_matrix(config), persistent=False)

    def forward(self, audio: Tensor) -> Tensor:
        """Spectra of audio.

        Args:
            audio: [batch, samples]; if their number is not known while a graph is made, a multiple of the hop.
        Returns:
            [batch, frames, bins, 2].
        """
        return torch.stack((_framed(audio, self.config) @ self.matrix).chunk(2, -1), -1)


def _framed(audio: Tensor, config: StftConfig) -> Tensor:
    """[batch, samples] -> [batch, frames, n_fft]."""
    half, hop, samples = config.n_fft // 2, config.hop, audio.shape[1]
    if config.padding == "zero":
        audio = F.pad(audio, (half, half + stft.frame_fill(samples, config)))
    else:
        # Slices with a step of -1: a mirror is known to all runtimes in this form.
        audio = torch.cat((audio[:, 1 : half + 1].flip(1), audio, audio[:, -half - 1 : -1].flip(1)), 1)
    frames = stft.frame_count(samples, config) + config.drop_last_frame
    blocks = -(-config.n_fft // hop)
    rows = F.pad(audio, (0, blocks * hop))[:, : (frames - 1 + blocks) * hop].unflatten(1, (frames - 1 + blocks, hop))
    return torch.cat([rows[:, i : i + frames] for i in range(blocks)], 2)[..., : config.n_fft]


class Synthesis(nn.Module):
    """`stft.synthesize` of spectra in real numbers."""

    matrix: Tensor
    power: Tensor

    def __init__(self, config: StftConfig):
        super().__init__()
        self.config = config
        self.register_buffer("matrix", inverse_matrix(config), persistent=False)
        self.register_buffer("power", _window(config).square().float(), persistent=False)

    def forward(self, spectra: Tensor, samples: int) -> Tensor:
        """[batch, sources, frames, bins, 2] -> [batch, sources, samples]; what no frame reaches is zero."""
        hop, frames = self.config.hop, spectra.shape[2]
        pieces = torch.cat(spectra.unbind(-1), -1) @ self.matrix
        sums = _overlapped(pieces, hop)
        weights = _overlapped(self.power.expand(1, 1, frames, self.config.n_fft), hop)
        audio = torch.where(weights > NOTHING, sums / weights.clamp(min=NOTHING), 0.0)
        return F.pad(audio[..., self.config.n_fft // 2 :], (0, samples))[..., :samples]


def _overlapped(pieces: Tensor, hop: int) -> Tensor:
    """[.., frames, n_fft] -> [.., (frames + blocks - 1) * hop], frames added a hop apart."""
    blocks = -(-pieces.shape[-1] // hop)
    rows = F.pad(pieces, (0, blocks * hop - pieces.shape[-1])).unflatten(-1, (blocks, hop))
    # [.., frames, hop] each, as far down as it comes late.
    parts = [F.pad(rows[..., i, :], (0, 0, i, blocks - 1 - i)) for i in range(blocks)]
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total.flatten(-2)
