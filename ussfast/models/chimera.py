"""ChimeraNet: an LSTM over the log magnitude with two heads, one that embeds every bin and one that gives masks.

Sources: Luo, Chen, Hershey, Le Roux and Mesgarani, "Deep clustering and conventional networks for music separation:
Stronger together", ICASSP 2017 (two heads); Hershey, Chen, Le Roux and Watanabe, "Deep clustering: Discriminative
embeddings for segmentation and separation", ICASSP 2016 (embeddings); Manilow, Seetharaman and Pardo, "The Northwestern
University Source Separation Library", ISMIR 2018 (these layers, and how they begin).
"""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import InputError
from ussfast.models._base import SpectralModel
from ussfast.models.clustering import cluster_masks
from ussfast.models.config import Blocks, LevelConfig, Names, Rate, Seconds, Sources, Width, check_labels
from ussfast.plain import Checked, Range
from ussfast.stft import StftConfig

FLOOR = 1e-8  # of a power before its logarithm
Activation = Literal["sigmoid", "tanh", "relu", "softmax", "unit_norm", "l1_norm"]
Activations = Annotated[tuple[Activation, ...], Range(0, 6)]
STFT = StftConfig(512, 128, 512, normalize="window")
State = tuple[Tensor, ...]


@dataclass(frozen=True)
class ChimeraConfig(Checked):
    """hidden: of the LSTM (or GRU), in each direction; dropout: between its layers.

    norm: of the log magnitude, one number for all bins: "batch", or "instance" for each recording by itself.
    embedding: numbers of a bin's embedding; 0 for a network without that head.
    masks: whether there is a head for masks. Without, embeddings are clustered (`ussfast.models.clustering`).
    embedding_activation, mask_activation: the first of sigmoid, tanh, relu and softmax that is among them, then
        unit_norm or l1_norm, whatever their order here; softmax and norms are over embeddings or sources.
    labels: names of the sources where training fixed their order; empty when the order is free.
    """

    sample_rate: Rate = 16000
    stft: StftConfig = STFT
    hidden: Width = 500
    layers: Blocks = 4
    bidirectional: bool = True
    dropout: Annotated[float, Range(0, 0.95)] = 0.3
    norm: Literal["batch", "instance"] = "batch"
    embedding: Annotated[int, Range(0, 1024)] = 20
    embedding_activation: Activations = ("sigmoid", "unit_norm")
    sources: Sources = 2
    masks: bool = True
    mask_activation: Activations = ("sigmoid",)
    labels: Names = ()
    cell: Literal["lstm", "gru"] = "lstm"
    level: LevelConfig = LevelConfig(enabled=False)
    segment_seconds: Seconds = 3.2

    def __post_init__(self) -> None:
        super().__post_init__()
        check_labels(self.labels, self.sources)
        if not (self.masks or self.embedding):
            raise InputError("a chimera needs a head: masks, or an embedding of 1 number or more")
        if self.labels and not self.masks:
            raise InputError("labels are for masks: the order of clusters is free")

    @property
    def width(self) -> int:
        """Numbers per frame that the heads see."""
        return self.hidden * (2 if self.bidirectional else 1)


class Heads(NamedTuple):
    """embedding [batch, frames, bins, numbers], mask [batch, frames, bins, sources]; None for one that is not there."""

    embedding: Tensor | None
    mask: Tensor | None


class Chimera(SpectralModel):
    """Sources have the phase of the mixture.

    The level is left alone: what is fainter than a floor of 1e-4 in a bin looks the same to the network.
    """

    def __init__(self, config: ChimeraConfig):
        super().__init__()
        self.config, bins = config, config.stft.bins
        self.recordable = config.masks  # clusters are found on the CPU
        self.norm: nn.Module = nn.BatchNorm1d(1) if config.norm == "batch" else nn.InstanceNorm1d(1)
        cell = nn.LSTM if config.cell == "lstm" else nn.GRU
        self.rnn = cell(
            bins,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=config.bidirectional,
            dropout=config.dropout if config.layers > 1 else 0.0,  # there is nothing between layers of one
        )
        self.embedding = nn.Linear(config.width, bins * config.embedding) if config.embedding else None
        self.mask = nn.Linear(config.width, bins * config.sources) if config.masks else None
        self._initialise()

    @property
    def carries_on(self) -> bool:
        """Whether frames do not depend on later ones, so that `carried` takes a recording piece by piece."""
        config = self.config
        free = config.masks and config.norm == "batch" and not config.level.enabled
        return free and not config.bidirectional and config.stft.padding == "zero" and not config.stft.drop_last_frame

    def _initialise(self) -> None:
        """As published; the slice that opens an LSTM's forget gates is set for a GRU, too."""
        for name, value in self.named_parameters():
            if value.dim() > 1:
                nn.init.xavier_normal_(value)
            elif name.startswith("rnn."):
                nn.init.zeros_(value)
                nn.init.ones_(value.detach()[len(value) // 4 : len(value) // 2])
            elif not name.startswith("norm."):
                nn.init.zeros_(value)

    @staticmethod
    def magnitude(spec: Tensor) -> Tensor:
        """[batch, frames, bins] complex -> what `heads` takes, real."""
        return spec.abs()

    def normed(self, magnitude: Tensor) -> Tensor:
        """[batch, frames, bins] -> the same in normalised decibels."""
        decibels = 10 * torch.log10(magnitude.square().clamp(min=FLOOR))
        return self.norm(decibels.flatten(1)[:, None])[:, 0].unflatten(1, magnitude.shape[1:])

    def features(self, magnitude: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """What the heads see, [batch, frames, width], and the recurrent state after the last frame.

        state: that of the frames before, for a network of one direction.
        """
        x = self.normed(magnitude)
        if isinstance(self.rnn, nn.GRU):
            out, after = self.rnn(x, None if state is None else state[0])
            return out, (after,)
        out, pair = self.rnn(x, None if state is None else (state[0], state[1]))
        return out, pair

    def heads(self, magnitude: Tensor) -> Heads:
        """Both heads, differentiable.

        Args:
            magnitude: [batch, frames, bins], of the mixture.
        """
        features = self.features(magnitude)[0]
        return Heads(self._embedded(features), self._masked(features))

    def _embedded(self, features: Tensor) -> Tensor | None:
        if self.embedding is None:
            return None
        rows = self.embedding(features).unflatten(-1, (self.config.stft.bins, self.config.embedding))
        return activated(rows, self.config.embedding_activation)

    def _masked(self, features: Tensor) -> Tensor | None:
        if self.mask is None:
            return None
        rows = self.mask(features).unflatten(-1, (self.config.stft.bins, self.config.sources))
        return activated(rows, self.config.mask_activation)

    def forward(self, spec: Tensor, prompts: Tensor | None = None) -> Tensor:
        """[batch, frames, bins] complex -> real masks [batch, sources, frames, bins, 2]; takes no prompts.

        Without the head for masks: those of clustering, through which no gradient goes.
        """
        return self.carried(spec)[0]

    def carried(self, spec: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """`forward`, beginning with a recurrent state, and the one after the last frame."""
        magnitude = self.magnitude(spec)
        features, after = self.features(magnitude, state)
        mask = self._masked(features)
        if mask is None:
            embedding = self._embedded(features)
            assert embedding is not None  # one of both is there
            mask = cluster_masks(embedding.float(), magnitude, self.config.sources)
        mask = mask.permute(0, 3, 1, 2)
        return torch.stack((mask, torch.zeros_like(mask)), -1), after


def activated(x: Tensor, names: tuple[str, ...]) -> Tensor:
    """[..., n] through at most one of the activations, then at most one of the norms over the last axis."""
    if "sigmoid" in names:
        x = x.sigmoid()
    elif "tanh" in names:
        x = x.tanh()
    elif "relu" in names:
        x = x.relu()
    elif "softmax" in names:
        x = x.softmax(-1)
    if "unit_norm" in names:
        return F.normalize(x, dim=-1)
    return F.normalize(x, p=1, dim=-1) if "l1_norm" in names else x
