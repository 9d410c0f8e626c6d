"""The causal model: a trunk that sees no prompts, and a light head per prompt.

Everything that remembers is in the trunk. What a prompt adds is computed from its vector alone (`Modulation`), and the
head of a frame looks at nothing but the trunk's present frame: prompts may change at any frame, and what comes out is
what a stream gives that always had them.
Sources: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025 (separation by learned prompts); Luo & Yu,
"Music source separation with band-split RNN", 2023 (bands). What is ours: where the prompts come in, the recurrences,
and masks that weigh features of single bins, which a few bands cannot carry.
"""

import math
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ussfast.errors import PromptError
from ussfast.models._base import SpectralModel
from ussfast.models._packed import Preparable
from ussfast.models.causal.config import CausalConfig
from ussfast.models.causal.ends import BandDecoder, BandEncoder, BinFeatures
from ussfast.models.causal.layers import BandAttention, Block, BlockState, FeedForward, Recurrence, norm
from ussfast.models.query import QueryEncoder
from ussfast.ops._scan import running_max, unknown

NOTHING = 1e-7  # magnitude from which levels are counted: a state of zeros has heard nothing


@dataclass(frozen=True)
class Modulation:
    """All that a model computes from prompts alone.

    scale, shift: [batch, prompts, 1, bands, dim]. count: int64 [batch], prompts of each item; what is beyond them only
    fills up a batch of streams with different numbers of prompts.
    """

    scale: Tensor
    shift: Tensor
    count: Tensor


@dataclass(frozen=True)
class TrunkState:
    """What streams remember, all zeros before the first frame.

    level: [batch], logarithm of the running level over NOTHING. features: [batch, 2, bins, 3], of the last two frames.
    blocks: what each remembers.
    """

    level: Tensor = field(metadata={"within": (0.0, 100.0)})  # of audio up to 1e10 it is 50
    features: Tensor = field(metadata={"within": (-1e6, 1e6)})  # roots of a bin's share of the level
    blocks: tuple[BlockState, ...] = field(metadata={"within": (-1e9, 1e9)})

    @property
    def items(self) -> int:
        return len(self.level)


class CausalModel(Preparable, SpectralModel):
    native_training = True  # its ops have kernels for training on the CPU

    def __init__(self, config: CausalConfig):
        super().__init__()
        self.config, self.prompt_names, self.equal_prompts = config, config.prompts, config.repeats
        dim, bands = config.dim, len(config.bands)
        self.prompt_size = dim
        self.prompts = nn.Parameter(torch.randn(len(config.prompts), dim))
        self.repeats = nn.Parameter(torch.randn(config.repeats, dim) * 0.5)
        self.band_rows = nn.Parameter(torch.randn(bands, dim) * 0.5)
        self.query_encoder = QueryEncoder(config.stft, config.sample_rate, dim)
        self.features = BinFeatures(config.features)
        self.encoder = BandEncoder(config.bands, config.features, dim)
        self.blocks = nn.ModuleList(Block(dim, config.hidden, config.heads) for _ in range(config.blocks))
        self.prompt_norm = nn.Parameter(torch.ones(dim))
        self.modulation = nn.Linear(dim, 2 * dim)
        # What a prompt changes is each band's own matter; at first all bands are changed almost alike.
        self.prompt_units = nn.Linear(dim, 2 * dim)
        self.by_band = nn.Parameter(torch.randn(bands, 2 * dim, 2 * dim) * 0.01)
        self.trunk_norm = nn.Parameter(torch.ones(dim))
        self.head = FeedForward(dim, config.hidden)
        self.decoder = BandDecoder(config.bands, config.features, dim)

    def use_precision(self, precision: str) -> None:
        """Of the matrix products of all layers from now on: float32 or bfloat16."""
        for module in self.modules():
            if isinstance(module, FeedForward | BandAttention | Recurrence | BandEncoder | BandDecoder):
                module.precision = precision

    def matrix_names(self) -> list[str]:
        """Of the matrices between hidden layers, for Muon."""
        inside = ("blocks.", "head.")
        return [n for n, p in self.named_parameters() if n.startswith(inside) and p.dim() == 2]

    def prompt_vectors(self, names: tuple[str, ...]) -> Tensor:
        unknown = [name for name in names if name not in self.prompt_names]
        if unknown or not names:
            raise PromptError(f"unknown prompts {unknown}; the model knows {list(self.prompt_names)}")
        return self.prompts[[self.prompt_names.index(name) for name in names]]

    def embed(self, audio: Tensor) -> Tensor:
        """Prompt vectors [clips, dim] of example clips [clips, samples] at the model's rate."""
        return self.query_encoder(audio)

    def condition(self, prompts: Tensor) -> Modulation:
        """prompts: [sources, dim] or [batch, sources, dim], of any kind; their length does not matter.

        PromptError for more equal ones than `equal_prompts`.
        """
        rows = prompts if prompts.dim() == 3 else prompts[None]
        # Equal prompts are told apart by how many of the same came before.
        same = (rows[:, :, None] == rows[:, None]).all(-1).tril(-1).sum(-1)
        most = len(self.repeats)
        # A GPU is waited for only where it may be, and a graph for any prompts cannot ask.
        if not unknown(rows.shape[1]) and rows.shape[1] > most and (worst := int(same.max()) + 1) > most:
            raise PromptError(f"{worst} prompts are equal, the model tells at most {most} apart")
        rows = rows * (rows.square().mean(-1, keepdim=True) + 1e-6).rsqrt() + self.repeats[same]
        own = torch.einsum("bph,nho->bpno", F.silu(self.prompt_units(rows)), self.by_band)
        rows = norm(rows[:, :, None] + self.band_rows, self.prompt_norm)
        scale, shift = (self.modulation(rows) + own).unsqueeze(2).chunk(2, -1)
        count = torch.full((rows.shape[0],), rows.shape[1], device=rows.device)
        return Modulation(1 + scale, shift.contiguous(), count)

    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """[batch, frames, bins] complex, prompts [(batch,) sources, dim] -> masks [batch, sources, frames, bins, 2]."""
        if prompts is None:
            raise PromptError(f"the model needs prompts; it knows {list(self.prompt_names)}")
        return self.advance(spec, self.condition(prompts), self.initial_state(len(spec)))[0]

    def ahead(self, spec: Tensor) -> tuple[Tensor, ...]:
        """The trunk's frames, and the features of bins."""
        return self.trunk(spec, self.initial_state(len(spec)))[:2]

    def behind(self, ahead: tuple[Tensor, ...], prompts: Tensor) -> Tensor:
        return self.masks(ahead[0], ahead[1], self.condition(prompts))

    def initial_state(self, batch: int) -> TrunkState:
        """Before the first frame or chunk of frames."""
        new, config = self.band_rows.new_zeros, self.config
        row = len(config.bands), config.dim
        # Each with memory of its own: streams write to theirs.
        blocks = tuple((new(batch, *row), new(batch, 2, *row)) for _ in range(config.blocks))
        return TrunkState(new(batch), new(batch, 2, config.stft.bins, 3), blocks)

    def step(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> tuple[Tensor, TrunkState]:
        """One frame; as `advance`, for spec [batch, bins] and masks [batch, sources, bins, 2]."""
        masks, state = self.advance(spec[:, None], modulation, state)
        return masks[:, :, 0], state

    def hop_at_once(
        self, audio: Tensor, context: Tensor, overlap: Tensor, modulation: Modulation, frames: TrunkState
    ) -> tuple[Tensor, Tensor, Tensor, TrunkState] | None:
        """`hop.step` with its transforms, where something else computes it in one piece: what comes out, context,
        overlap, frames."""
        return None

    def advance(self, spec: Tensor, modulation: Modulation, state: TrunkState) -> tuple[Tensor, TrunkState]:
        """Frames that follow others, one or many.

        Args:
            spec: [batch, frames, bins] complex.
            modulation, state: from `condition`, and `initial_state` or the last call.
        Returns:
            masks [batch, sources, frames, bins, 2]; the new state.
        """
        frames, features, state = self.trunk(spec, state)
        return self.masks(frames, features, modulation), state

    def trunk(self, spec: Tensor, state: TrunkState) -> tuple[Tensor, Tensor, TrunkState]:
        """Band tokens [batch, frames, bands, dim] and features of bins [batch, frames, bins, features], both the same
        for all prompts."""
        raw, level = self._levelled(spec, state.level)
        longer = torch.cat((state.features, raw), 1)
        features = self.features(longer)
        x = self.encoder(features) + self.band_rows
        x = x.float()  # the residual stream, also under autocast
        after = []
        for block, before in zip(self.blocks, state.blocks, strict=True):
            x, kept = block(x, before)
            after.append(kept)
        return x, features, TrunkState(level, longer[:, -2:], tuple(after))

    def masks(self, frames: Tensor, features: Tensor, modulation: Modulation) -> Tensor:
        """What the head makes of the trunk's frames for each prompt."""
        y = norm(frames, self.trunk_norm)[:, None] * modulation.scale + modulation.shift
        return self.decoder(self.head.among_bands(y.flatten(0, 1)).unflatten(0, y.shape[:2]), features)

    def _levelled(self, spec: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """Compressed spectra [batch, frames, bins, 3] (real, imaginary, magnitude) and the level behind them.

        The level follows the mean magnitude up at once and down by `release_db` a second: what comes after a loud
        passage is at its own level soon. Magnitudes become their square roots.
        """
        magnitude = spec.abs()
        now = (magnitude.mean(-1) / NOTHING).clamp(min=1).log()
        # max over the past of (its level - release * distance), as one running maximum.
        slope = self.config.release * torch.arange(1, now.shape[1] + 1, device=now.device, dtype=now.dtype)
        run = torch.maximum(now, running_max(now + slope) - slope)
        run = torch.maximum(run, level[:, None] - slope)
        root = (magnitude + 1e-8).sqrt()
        gain = (-0.5 * (run + math.log(NOTHING))).exp()[..., None]
        pairs = torch.view_as_real(spec) * (gain / root)[..., None]
        return torch.cat((pairs, (root * gain)[..., None]), -1), run[:, -1]
