"""Cnn14 of the PANNs: blocks of convolutions over a log-mel spectrogram, for tags of clips or scores over time.

Source: Kong et al., "PANNs: Large-Scale Pretrained Audio Neural Networks for Audio Pattern Recognition", TASLP 2020.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models.config import Seconds, Width
from ussfast.models.detectors._base import Detection, DetectorModel, Labels, check_distinct
from ussfast.models.detectors._folding import ConvNorm
from ussfast.models.detectors.log_mel import LogMel, LogMelConfig
from ussfast.plain import Checked, Range

CHANNELS = (64, 128, 256, 512, 1024, 2048)


@dataclass(frozen=True)
class Cnn14Config(Checked):
    """channels: of each block; all but the last halve time and frequency.

    pooling: "clip" pools over time before the classifier and tags whole clips (Cnn14); "max" and "mean" classify every
        step and take the clip's score from them (Cnn14_DecisionLevelMax, Cnn14_DecisionLevelAvg). So does "linear", a
        mean in which every step has its score as its weight: it is learned as fast as the mean, and steps without the
        sound may stay low (Wang et al., "A Comparison of Five Multiple Instance Learning Pooling Functions for Sound
        Event Detection with Weak Labeling", ICASSP 2019).
    dropout: in training, behind each block and around the hidden layer; much less is right for few channels.
    """

    labels: Labels
    front: LogMelConfig = LogMelConfig()
    channels: Annotated[tuple[Width, ...], Range(2, 8)] = CHANNELS
    pooling: Literal["clip", "max", "mean", "linear"] = "clip"
    segment_seconds: Seconds = 10.0
    dropout: Annotated[tuple[Annotated[float, Range(0, 0.99)], ...], Range(2, 2)] = (0.2, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self.labels)
        if self.front.mels < self.step:
            raise InputError(f"{len(self.channels)} blocks need at least {self.step} mels, got {self.front.mels}")

    @property
    def sample_rate(self) -> int:
        return self.front.sample_rate

    @property
    def embedding_dim(self) -> int:
        return self.channels[-1]

    @property
    def step(self) -> int:
        """Frames of the spectrogram that become one step of the classifier."""
        return 2 ** (len(self.channels) - 1)


class Cnn14(DetectorModel):
    """The embedding is what the classifier sees: with pooling "clip" that of the clip, as published. With the others it
    is the mean over the steps; published models of that kind give none."""

    def __init__(self, config: Cnn14Config):
        super().__init__()
        self.config = config
        self.front = LogMel(config.front)
        self.norm = nn.BatchNorm1d(config.front.mels)
        ends = (1, *config.channels)
        self.blocks = nn.ModuleList(
            nn.Sequential(ConvNorm(a, b), ConvNorm(b, b)) for a, b in zip(ends, ends[1:], strict=False)
        )
        self.hidden = nn.Linear(ends[-1], ends[-1])
        self.out = nn.Linear(ends[-1], len(config.labels))

    @property
    def frame_seconds(self) -> float:
        return self.config.front.frame_seconds

    @property
    def least_samples(self) -> int:
        return (self.config.step - 1) * self.config.front.hop

    @property
    def embedding_dim(self) -> int:
        return self.config.embedding_dim

    def forward(self, audio: Tensor) -> Detection:
        return self.analyse(self.front(audio))

    def analyse(self, log_mel: Tensor) -> Detection:
        """The same from the front end's output [clips, frames, mels], where training may change it.

        Raises:
            InputError: fewer frames than one step of the classifier has.
        """
        frames, step = log_mel.shape[1], self.config.step
        if frames < step:
            front = self.config.front
            raise InputError(
                f"a clip of {frames} frames is too short: this detector needs {step}, that is "
                f"{self.least_samples / front.sample_rate:.3g} s"
            )
        x = self._trunk(log_mel)
        if self.config.pooling == "clip":
            hidden = self._hide(x.amax(2) + x.mean(2))
            return Detection(self._score(hidden), None, hidden)
        # Zeros beyond the ends count in the average, as published. In two dimensions, since TensorRT pools no fewer.
        x = x[:, :, None]
        x = F.max_pool2d(x, (1, 3), stride=1, padding=(0, 1)) + F.avg_pool2d(x, (1, 3), stride=1, padding=(0, 1))
        x = x[:, :, 0]
        hidden = self._hide(x.transpose(1, 2))
        steps = self._score(F.dropout(hidden, self.config.dropout[1], self.training))
        tags = self._pooled(steps)
        # Frames that fill no step of their own have the scores of the last one.
        at = torch.arange(frames, device=steps.device).div(step, rounding_mode="floor")
        return Detection(tags, torch.cat((steps, steps[:, -1:]), 1)[:, at], hidden.mean(1))

    def _trunk(self, log_mel: Tensor) -> Tensor:
        """[clips, frames, mels] -> [clips, channels, steps]."""
        x = self.norm(log_mel.flatten(0, 1).to(self.dtype)).view_as(log_mel)[:, None]
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i + 1 < len(self.blocks):
                x = F.avg_pool2d(x, 2)
            x = F.dropout(x, self.config.dropout[0], self.training)
        return x.mean(3, dtype=self.dtype)

    def _hide(self, x: Tensor) -> Tensor:
        return self.hidden(F.dropout(x, self.config.dropout[1], self.training)).relu()

    def _pooled(self, steps: Tensor) -> Tensor:
        """[clips, steps, labels] -> [clips, labels]."""
        if self.config.pooling == "linear":
            return steps.square().sum(1) / steps.sum(1).clamp(min=1e-7)
        return steps.amax(1) if self.config.pooling == "max" else steps.mean(1)

    def _score(self, hidden: Tensor) -> Tensor:
        return self.out(hidden).to(self.dtype).sigmoid()
