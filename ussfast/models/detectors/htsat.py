"""HTS-AT: a log-mel spectrogram, folded into a square image, through a Swin transformer to classes over time.

Source: Chen et al., "HTS-AT: A Hierarchical Token-Semantic Audio Transformer for Sound Classification and Detection",
ICASSP 2022; as the detector of Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from
Weakly-labeled Data", AAAI 2022 (ST-SED).
"""

from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models._packed import Preparable
from ussfast.models.config import Blocks, Expansion, Heads, Names, Width
from ussfast.models.detectors.log_mel import LogMel, LogMelConfig
from ussfast.models.detectors.swin import Swin
from ussfast.plain import Checked, Range


@dataclass(frozen=True)
class HtsatConfig(Checked):
    """image: side of the square image, a multiple of the mel bands; patch: side of what becomes one token.

    window: side of the windows of attention, in tokens. dim: of a token in the first stage, doubled from stage to
    stage. depths, heads: blocks, and heads of attention, of each stage. expansion: hidden layer of the MLPs over dim.
    drop_path: share of clips that go past the last block in training; it rises to that from block to block.
    """

    labels: Names
    front: LogMelConfig = LogMelConfig()
    image: Annotated[int, Range(8, 4096)] = 256
    patch: Annotated[int, Range(1, 64)] = 4
    window: Annotated[int, Range(2, 64)] = 8
    dim: Width = 256
    depths: Annotated[tuple[Blocks, ...], Range(1, 8)] = (2, 2, 6, 2)
    heads: Annotated[tuple[Heads, ...], Range(1, 8)] = (4, 8, 16, 32)
    expansion: Expansion = 4
    drop_path: Annotated[float, Range(0, 0.9)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.labels:
            raise InputError("a detector needs at least one label")
        if len(self.depths) != len(self.heads):
            raise InputError(f"need as many heads as depths, got {list(self.heads)} and {list(self.depths)}")
        if bad := [i for i, count in enumerate(self.heads) if (self.dim << i) % count]:
            raise InputError(f"heads must divide the width of their stage, got {self.heads[bad[0]]} at stage {bad[0]}")
        if self.image % self.front.mels or self.front.mels % (self.patch << (len(self.depths) - 1)):
            raise InputError(
                f"image {self.image} must be a multiple of {self.front.mels} mels, and these one of the patch "
                f"{self.patch} doubled from stage to stage"
            )
        sides = [(self.image // self.patch) >> stage for stage in range(len(self.depths))]
        if bad := [side for side in sides if side % min(self.window, side)]:
            raise InputError(f"window {self.window} must divide the sides of all stages, got {bad[0]} tokens")

    @property
    def sample_rate(self) -> int:
        return self.front.sample_rate

    @property
    def strips(self) -> int:
        """Pieces in time that lie above each other in the image."""
        return self.image // self.front.mels

    @property
    def frames(self) -> int:
        """Of the spectrogram that fits the model: all others are stretched to this length."""
        return self.image * self.strips

    @property
    def embedding_dim(self) -> int:
        return self.dim << (len(self.depths) - 1)


@dataclass(frozen=True)
class HtsatOutput:
    """clipwise: [clips, labels] and framewise: [clips, config.frames, labels], probabilities; rows of framewise are
    spread evenly over the spectrogram as the model saw it, its repetitions included. latent: [clips, embedding_dim],
    None where the clip was cut into pieces."""

    clipwise: Tensor
    framewise: Tensor
    latent: Tensor | None


class Htsat(Preparable):
    def __init__(self, config: HtsatConfig):
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.front)
        self.mel_norm = nn.BatchNorm1d(config.front.mels)
        self.patch = nn.Linear(config.patch**2, config.dim)
        self.patch_norm = nn.LayerNorm(config.dim)
        side = config.image // config.patch
        self.swin = Swin(config.dim, config.depths, config.heads, side, config.window, config.expansion,
                         config.drop_path)  # fmt: skip
        height = self.swin.last_side // config.strips
        self.head = nn.Conv2d(config.embedding_dim, len(config.labels), (height, 3), padding=(0, 1))

    def forward(self, audio: Tensor, repeat: bool = True) -> HtsatOutput:
        """All outputs for [clips, samples] at the model's rate; see `of_spectrogram`."""
        return self.of_spectrogram(self.log_mel(audio), repeat)

    def of_spectrogram(self, decibels: Tensor, repeat: bool = True) -> HtsatOutput:
        """As published, in both modes.

        Args:
            decibels: [clips, frames, mels] of the log-mel front end.
            repeat: as often as a clip fits it is repeated before it is stretched: the mode of inference in which
                embeddings are made. Else it is only stretched; and of one that is too long two overlapping pieces are
                looked at, which leave out a part of its end.
        Raises:
            InputError: more frames than fit: `config.frames`, or without `repeat` about twice that.
        """
        most, frames = self.config.frames, decibels.shape[1]
        x = self._normed(decibels)
        if frames <= most:
            return self._of_image(self._stretched(x.repeat(1, most // frames, 1) if repeat else x))
        length, step = (frames - 1) // 2, (frames - 1) // 4
        if repeat or length > most:
            front = self.config.front
            limit = (most if repeat else 2 * most + 2) * front.frame_seconds
            raise InputError(
                f"clips of {frames * front.frame_seconds:.2f} s do not fit the detector, which takes at most {limit:.2f} s"
            )
        pieces = [
            self._of_image(self._stretched(x[:, start : start + length])) for start in range(0, frames - length - 1, step)
        ]
        clipwise = torch.stack([piece.clipwise for piece in pieces]).mean(0)
        return HtsatOutput(clipwise, torch.stack([piece.framewise for piece in pieces]).mean(0), None)

    def _normed(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.mel_norm(x.transpose(1, 2)).transpose(1, 2)
        scale, shift = self.kept(self._fold)
        return torch.addcmul(shift, x, scale)

    def _fold(self) -> tuple[Tensor, Tensor]:
        norm = self.mel_norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale.detach(), (norm.bias - norm.running_mean * scale).detach()

    def _stretched(self, x: Tensor) -> Tensor:
        """[clips, frames, mels] -> [clips, config.frames, mels]."""
        size = self.config.frames, x.shape[2]
        if x.shape[1] == size[0]:
            return x
        return F.interpolate(x[:, None], size, mode="bicubic", align_corners=True)[:, 0]

    def _patches(self, x: Tensor) -> Tensor:
        """[clips, config.frames, mels] -> [clips, tokens, patch^2], row-major.

        Row of the image: strip * mels + band; column: time within the strip.
        """
        config = self.config
        side, patch = config.image // config.patch, config.patch
        x = x.view(len(x), config.strips, side, patch, -1, patch).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(len(x), side * side, patch * patch)

    def _of_image(self, x: Tensor) -> HtsatOutput:
        config = self.config
        tokens = self.swin(self.patch_norm(self.patch(self._patches(x))))
        latent = tokens.mean(1)
        # Back from the image: strips follow each other in time again.
        side = self.swin.last_side
        plane = tokens.view(len(x), config.strips, side // config.strips, side, -1).permute(0, 4, 2, 1, 3).flatten(3)
        logits = self.head(plane)[:, :, 0]  # [clips, labels, strips * side]
        rows = logits.sigmoid().transpose(1, 2).repeat_interleave(config.frames // logits.shape[2], 1)
        return HtsatOutput(logits.mean(2).sigmoid(), rows, latent)
