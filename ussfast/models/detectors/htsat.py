"""HTS-AT: a log-mel spectrogram, folded into a square image, through a Swin transformer to classes over time.

Source: Chen et al., "HTS-AT: A Hierarchical Token-Semantic Audio Transformer for Sound Classification and Detection",
ICASSP 2022; as the detector of Chen et al., "Zero-shot Audio Source Separation through Query-based Learning from
Weakly-labeled Data", AAAI 2022 (ST-SED).
"""

from dataclasses import dataclass
from typing import Annotated, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models._packed import Preparable
from ussfast.models.config import Blocks, Expansion, Heads, Seconds, Width
from ussfast.models.detectors._base import Detection, DetectorModel, Labels, check_distinct
from ussfast.models.detectors._stretching import stretch_matrix
from ussfast.models.detectors.log_mel import LogMel, LogMelConfig
from ussfast.models.detectors.swin import Matrix, Swin
from ussfast.plain import Checked, Range

# What a model may ask for: neither is bounded by the size of its weights. Published: 64, and 2^20.
MOST_SIDE = 256  # of the image, in patches
MOST_LOGITS = 2**25  # of a block


@dataclass(frozen=True)
class HtsatConfig(Checked):
    """image: side of the square image, a multiple of the mel bands; patch: side of what becomes one token.

    window: side of the windows of attention, in tokens. dim: of a token in the first stage, doubled from stage to
    stage. depths, heads: blocks, and heads of attention, of each stage. expansion: hidden layer of the MLPs over dim.
    drop_path: share of clips that go past the last block in training; it rises to that from block to block.
    """

    labels: Labels
    front: LogMelConfig = LogMelConfig()
    image: Annotated[int, Range(8, 4096)] = 256
    patch: Annotated[int, Range(1, 64)] = 4
    window: Annotated[int, Range(2, 64)] = 8
    dim: Width = 256
    depths: Annotated[tuple[Blocks, ...], Range(1, 8)] = (2, 2, 6, 2)
    heads: Annotated[tuple[Heads, ...], Range(1, 8)] = (4, 8, 16, 32)
    expansion: Expansion = 4
    drop_path: Annotated[float, Range(0, 0.9)] = 0.1
    segment_seconds: Seconds = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self.labels)
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
        if sides[0] > MOST_SIDE:
            raise InputError(f"image {self.image} is {sides[0]} patches across, more than {MOST_SIDE}")
        areas = [(side * min(self.window, side)) ** 2 * heads for side, heads in zip(sides, self.heads, strict=True)]
        if max(areas) > MOST_LOGITS:
            raise InputError(
                f"window {self.window} of {sides[areas.index(max(areas))]} tokens across is too large: {max(areas)} "
                f"products of queries and keys in one block, at most {MOST_LOGITS}"
            )
        if self.segment_seconds > self.most_samples / self.sample_rate:
            longest = self.most_samples / self.sample_rate
            raise InputError(f"segment_seconds is at most {longest:.5g} for these sizes, got {self.segment_seconds:g}")

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
    def most_samples(self) -> int:
        """Of a clip that fits."""
        return self.frames * self.front.hop - 1

    @property
    def embedding_dim(self) -> int:
        return self.dim << (len(self.depths) - 1)


@dataclass(frozen=True)
class HtsatOutput:
    """What the published model gives.

    clipwise: [clips, labels] and framewise: [clips, config.frames, labels], scores from 0 to 1; rows of framewise are
        spread evenly over the spectrogram as the network saw it, repetitions of a short clip included.
    latent: [clips, embedding_dim]; None where clips were cut into pieces.
    """

    clipwise: Tensor
    framewise: Tensor
    latent: Tensor | None


class Htsat(Preparable, DetectorModel):
    """The embedding is the mean of all tokens behind the last norm.

    In `frames`, a row is one frame of the spectrogram: published rows laid over the clip, the mean of them where a
    short clip was repeated. `published` gives them as they are.
    """

    def __init__(self, config: HtsatConfig):
        super().__init__()
        self.config = config
        self.front = LogMel(config.front)
        self.norm = nn.BatchNorm1d(config.front.mels)
        self.patch = nn.Linear(config.patch**2, config.dim)
        self.patch_norm = nn.LayerNorm(config.dim)
        side = config.image // config.patch
        self.swin = Swin(config.dim, config.depths, config.heads, side, config.window, config.expansion,
                         config.drop_path)  # fmt: skip
        height = self.swin.last_side // config.strips
        self.out = nn.Conv2d(config.embedding_dim, len(config.labels), (height, 3), padding=(0, 1))

    @property
    def frame_seconds(self) -> float:
        return self.config.front.frame_seconds

    @property
    def least_samples(self) -> int:
        return 1

    @property
    def embedding_dim(self) -> int:
        return self.config.embedding_dim

    def fold(self, dtype: torch.dtype = torch.float32) -> Self:
        """dtype: of the Swin transformer's matrix products; norms and what blocks add up stay as they are."""
        for module in self.modules():
            if isinstance(module, Matrix):
                module.narrow(dtype)
        return super().fold(dtype)

    def forward(self, audio: Tensor) -> Detection:
        """Clips of at most `config.most_samples`, as embeddings of queries are published: short ones are repeated."""
        return self.analyse(self.front(audio))

    def analyse(self, log_mel: Tensor) -> Detection:
        """The same from the front end's output [clips, frames, mels], where training may change it.

        Raises:
            InputError: more frames than `config.frames`.
        """
        frames, times = log_mel.shape[1], self.config.frames // log_mel.shape[1]
        x = self._fitting(log_mel, times)
        tokens = self._tokens(x)
        columns = self._columns(tokens)
        # The place of every frame of every repetition among as many rows as the network saw, first and last ones fixed.
        # Reckoned here, not in a graph, where halves may be rounded another way.
        ratio, each = (self.config.frames - 1) / max(times * frames - 1, 1), self.config.frames // columns.shape[1]
        rows = torch.tensor([round(place * ratio) // each for place in range(times * frames)], device=x.device)
        scores = columns.sigmoid()[:, rows]
        return Detection(columns.mean(1).sigmoid(), scores.unflatten(1, (times, frames)).mean(1), tokens.mean(1))

    def published(self, audio: Tensor, repeat: bool = True) -> HtsatOutput:
        """Outputs for [clips, samples] at the model's rate as they are published, in both modes; see `rows`."""
        return self.rows(self.front(audio), repeat)

    def rows(self, log_mel: Tensor, repeat: bool = True) -> HtsatOutput:
        """Published outputs.

        Args:
            log_mel: [clips, frames, mels] of the front end.
            repeat: as often as a clip fits it is repeated before it is stretched: the mode of inference in which
                embeddings are made. Else it is only stretched; and of one that is too long pieces that overlap are
                looked at, which may leave out a part of its end.
        Raises:
            InputError: more frames than fit: `config.frames`, without `repeat` about twice that.
        """
        most, frames = self.config.frames, log_mel.shape[1]
        if repeat or frames <= most:
            return self._rows(log_mel, most // frames if repeat else 1)
        length, step = (frames - 1) // 2, (frames - 1) // 4
        if length > most:
            raise self._too_long(frames, 2 * most + 2)
        pieces = [self._rows(log_mel[:, at : at + length], 1) for at in range(0, frames - length - 1, step)]
        clipwise = torch.stack([piece.clipwise for piece in pieces]).mean(0)
        return HtsatOutput(clipwise, torch.stack([piece.framewise for piece in pieces]).mean(0), None)

    def _rows(self, log_mel: Tensor, times: int) -> HtsatOutput:
        tokens = self._tokens(self._fitting(log_mel, times))
        columns = self._columns(tokens)
        rows = columns.sigmoid().repeat_interleave(self.config.frames // columns.shape[1], 1)
        return HtsatOutput(columns.mean(1).sigmoid(), rows, tokens.mean(1))

    def _too_long(self, frames: int, most: int) -> InputError:
        long, longest = (count * self.frame_seconds for count in (frames, most))
        return InputError(f"clips of {long:.2f} s do not fit the detector, which takes less than {longest:.2f} s")

    def _fitting(self, log_mel: Tensor, times: int) -> Tensor:
        """Normed, repeated and stretched: [clips, frames, mels] -> [clips, config.frames, mels]."""
        most = self.config.frames
        if log_mel.shape[1] > most:
            raise self._too_long(log_mel.shape[1], most)
        x = self._normed(log_mel.to(self.dtype)).repeat(1, times, 1)
        if x.shape[1] == most:
            return x
        if torch.compiler.is_exporting():
            return stretch_matrix(x.shape[1], most).to(x) @ x
        return F.interpolate(x[:, None], (most, x.shape[2]), mode="bicubic", align_corners=True)[:, 0]

    def _normed(self, x: Tensor) -> Tensor:
        if self.training or torch.is_grad_enabled():
            return self.norm(x.transpose(1, 2)).transpose(1, 2)
        scale, shift = self.kept(self._fold)
        return torch.addcmul(shift, x, scale)

    def _fold(self) -> tuple[Tensor, Tensor]:
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        return scale, norm.bias - norm.running_mean * scale

    def _patches(self, x: Tensor) -> Tensor:
        """[clips, config.frames, mels] -> [clips, tokens, patch^2], row-major.

        Row of the image: strip * mels + band; column: time within the strip.
        """
        config = self.config
        side, patch = config.image // config.patch, config.patch
        x = x.view(x.shape[0], config.strips, side, patch, -1, patch).permute(0, 1, 4, 2, 5, 3)
        return x.reshape(x.shape[0], side * side, patch * patch)

    def _tokens(self, x: Tensor) -> Tensor:
        """[clips, config.frames, mels] -> [clips, tokens, embedding_dim] of the last stage."""
        return self.swin(self.patch_norm(self.patch(self._patches(x))))

    def _columns(self, tokens: Tensor) -> Tensor:
        """[clips, tokens, embedding_dim] -> logits [clips, columns, labels], evenly in time."""
        side, strips = self.swin.last_side, self.config.strips
        # Back from the image: strips follow each other in time again.
        plane = tokens.view(tokens.shape[0], strips, side // strips, side, -1).permute(0, 4, 2, 1, 3).flatten(3)
        return self.out(plane)[:, :, 0].transpose(1, 2)
