"""Causal TUSS: prompts stand before the first frame, an SFC encoder and decoder look at the present and the past.

Sources: Saijo et al., "Task-Aware Unified Source Separation", ICASSP 2025 (prompts as rows of the sequence); Saijo &
Bando, "Input-Adaptive Spectral Feature Compression by Sequence Modeling for Source Separation", IEEE TASLP 2026 (the
encoder). What is ours: everything is causal, prompts see one another but no frames, and they scale and shift the
frames band by band behind the stack.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from ussfast.errors import InputError, PromptError
from ussfast.models._base import SpectralModel
from ussfast.models._packed import Preparable
from ussfast.models.causal_tuss_blocks import BlockState, CausalStack, Past, Prefix
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig, StftConfig
from ussfast.models.locoformer import ConvSwiGlu, RmsGroupNorm
from ussfast.models.prompt_bands import SfcBack, SfcFront, SplitBack, SplitFront
from ussfast.models.query import QueryEncoder
from ussfast.models.sfc import SfcConfig, band_edges

REPEATS = 4  # equal prompts that are told apart


@dataclass(frozen=True)
class CausalTussConfig:
    """window_seconds: how far attention along time looks back. look_ahead: frames that an output waits for.

    level_seconds: the input is divided by its running level, a mean over all frames so far and then over about this
        time. extraction: feed-forward layer along frequency that runs for each prompt.
    encoder: "band_split" and causal: False are there to be compared with; the latter can only separate as a whole.
    """

    sample_rate: int
    stft: StftConfig
    prompts: tuple[str, ...]
    sfc: SfcConfig
    stack: StackConfig
    extraction: FfnConfig
    encoder: Literal["sfc", "band_split"] = "sfc"
    causal: bool = True
    window_seconds: float = 3.0
    look_ahead: int = 0
    level_seconds: float = 5.0
    level: LevelConfig = LevelConfig(enabled=False)
    segment_seconds: float = 6.0

    def __post_init__(self) -> None:
        stft = self.stft
        if not self.prompts or len(set(self.prompts)) != len(self.prompts):
            raise InputError(f"prompts must be distinct names, at least one, got {list(self.prompts)}")
        if stft.window_length != stft.n_fft or stft.n_fft != 2 * stft.hop or stft.padding != "zero":
            raise InputError(f"a causal model needs n_fft = window_length = 2 hop and padding zero, got {stft}")
        if stft.normalize is not None or stft.drop_last_frame:
            raise InputError("a causal model needs an STFT without normalize and drop_last_frame")
        if self.stack.norm != "rms_group_norm":
            raise InputError("a causal model needs norm rms_group_norm")
        if self.level.enabled:
            raise InputError("a causal model has its own running level: level.enabled must be false")
        if self.look_ahead < 0 or self.window_frames < 2 or self.level_seconds <= 0:
            raise InputError("need look_ahead >= 0, a window of at least two frames and level_seconds > 0")
        if (self.causal and self.sfc.encoder_time == "both") or self.sfc.decoder_time != "none":
            raise InputError("a causal model needs sfc.encoder_time past or none, and sfc.decoder_time none")
        if self.sfc.query != "learnable" or self.sfc.bias != "edges" or self.sfc.mask_outside:
            raise InputError("a causal model needs sfc.query learnable, sfc.bias edges and no sfc.mask_outside")
        if not self.causal and self.look_ahead:
            raise InputError("look_ahead is for causal models")

    @property
    def window_frames(self) -> int:
        return round(self.window_seconds * self.sample_rate / self.stft.hop)

    @property
    def level_frames(self) -> int:
        return max(1, round(self.level_seconds * self.sample_rate / self.stft.hop))

    @property
    def latency_samples(self) -> int:
        """From a sample of the input to the same one of the output, at the model's rate."""
        return self.stft.n_fft + self.look_ahead * self.stft.hop


@dataclass(frozen=True)
class Conditioning:
    """All that a model computes from prompts alone.

    scale, shift: [batch, prompts, 1, bands, dim]. count: int64 [batch], prompts of each item; what is beyond them only
    fills up a batch of streams with different numbers of prompts (see `causal_step`).
    """

    prefix: tuple[Prefix, ...]
    scale: Tensor
    shift: Tensor
    count: Tensor


@dataclass(frozen=True)
class FrontState:
    """What stands before the blocks remembers: frames seen so far (int64 [batch]), running level [batch], and the
    encoder's own."""

    seen: Tensor
    level: Tensor
    encoder: tuple[Tensor, ...]


@dataclass(frozen=True)
class CausalState:
    """Between single frames, for items that may have seen different numbers of frames."""

    front: FrontState
    blocks: tuple[BlockState, ...]

    @property
    def items(self) -> int:
        return len(self.front.seen)


@dataclass(frozen=True)
class ChunkState:
    """Between chunks, for items that go along together; blocks: None before the first chunk."""

    front: FrontState
    blocks: tuple[Past, ...] | None = None


class CausalTuss(Preparable, SpectralModel):
    def __init__(self, config: CausalTussConfig):
        super().__init__()
        self.config = config
        self.prompt_names = config.prompts
        dim, bins = config.stack.dim, config.stft.bins
        edges = band_edges(config.sfc, config.stft, config.sample_rate)
        self.bands = len(edges)
        self.prompts = nn.Parameter(torch.randn(len(config.prompts), dim))
        self.repeats = nn.Parameter(torch.randn(REPEATS, dim) * 0.5)
        self.band_rows = nn.Parameter(torch.randn(self.bands, dim) * 0.5)
        self.query_encoder = QueryEncoder(config.stft, config.sample_rate, dim)
        self.encoder: SfcFront | SplitFront
        self.decoder: SfcBack | SplitBack
        if config.encoder == "band_split":
            widths = tuple(end - start for start, end in edges)
            self.encoder, self.decoder = SplitFront(widths, 3, dim), SplitBack(widths, dim)
        else:
            self.encoder = SfcFront(config.sfc, edges, bins, 3, dim)
            self.decoder = SfcBack(config.sfc, edges, bins, dim)
        self.stack = CausalStack(config.stack, config.window_frames, config.causal)
        self.norm = RmsGroupNorm(dim, config.stack.groups, config.stack.eps)
        self.row_norm = RmsGroupNorm(dim, config.stack.groups, config.stack.eps)
        self.modulation = nn.Linear(dim, 2 * dim)
        self.extraction = ConvSwiGlu(config.stack, config.extraction)

    def prompt_vectors(self, names: tuple[str, ...]) -> Tensor:
        unknown = [name for name in names if name not in self.prompt_names]
        if unknown or not names:
            raise PromptError(f"unknown prompts {unknown}; the model knows {list(self.prompt_names)}")
        return self.prompts[[self.prompt_names.index(name) for name in names]]

    def embed(self, audio: Tensor) -> Tensor:
        """Prompt vectors [clips, dim] of example clips [clips, samples] at the model's rate."""
        return self.query_encoder(audio)

    def condition(self, prompts: Tensor) -> Conditioning:
        """prompts: [sources, dim] or [batch, sources, dim], of any kind; their length does not matter."""
        rows, prefix = self.stack.condition(self.prompt_rows(prompts if prompts.dim() == 3 else prompts[None]))
        return self.conditioning(rows, prefix)

    def prompt_rows(self, rows: Tensor) -> Tensor:
        """What goes into the blocks for prompts [batch, sources, dim]: [batch, sources, bands, dim]."""
        # Equal prompts are told apart by how many of the same came before.
        same = (rows[:, :, None] == rows[:, None]).all(-1).tril(-1).sum(-1).clamp(max=REPEATS - 1)
        rows = rows * (rows.square().mean(-1, keepdim=True) + 1e-6).rsqrt() + self.repeats[same]
        return rows[:, :, None] + self.band_rows

    def conditioning(self, rows: Tensor, prefix: tuple[Prefix, ...]) -> Conditioning:
        """From prompt rows behind the blocks, and the prefix of every block."""
        scale, shift = self.modulation(self.row_norm(rows)).unsqueeze(2).chunk(2, -1)
        count = torch.full((len(rows),), rows.shape[1], device=rows.device)
        return Conditioning(prefix, 1 + scale, shift.contiguous(), count)

    def forward(self, spec: Tensor, prompts: Tensor | None) -> Tensor:
        """[batch, frames, bins] complex, prompts [(batch,) sources, dim] -> masks [batch, sources, frames, bins, 2]."""
        if prompts is None:
            raise PromptError(f"a TUSS model needs prompts; it knows {list(self.prompt_names)}")
        conditioning = self.condition(prompts)
        ahead = self.config.look_ahead
        if ahead:
            spec = torch.cat((spec, spec.new_zeros(spec.shape[0], ahead, spec.shape[2])), 1)
        tokens, bins, _ = self._encode(spec, self._front(spec.shape[0]))
        frames, _ = self.stack(tokens, conditioning.prefix)
        return self._masks(frames, bins, conditioning)[:, :, ahead:]

    def _front(self, batch: int) -> FrontState:
        seen = torch.zeros(batch, dtype=torch.int64, device=self.band_rows.device)
        return FrontState(seen, self.band_rows.new_zeros(batch), self.encoder.initial_state(batch))

    def initial_chunk(self, batch: int) -> ChunkState:
        """Before the first chunk."""
        return ChunkState(self._front(batch))

    def advance(self, spec: Tensor, conditioning: Conditioning, state: ChunkState) -> tuple[Tensor, ChunkState]:
        """A chunk of frames that follows others.

        Args:
            spec: [batch, frames, bins] complex.
            conditioning, state: from `condition`, and `initial_chunk` or the last call.
        Raises:
            InputError: the model is not causal.
        Returns:
            masks [batch, sources, frames, bins, 2], those of frame t being for frame t - look_ahead; the new state.
        """
        self._check_causal()
        tokens, bins, front = self._encode(spec, state.front)
        frames, blocks = self.stack(tokens, conditioning.prefix, state.blocks)
        return self._masks(frames, bins, conditioning), ChunkState(front, blocks)

    def initial_state(self, batch: int) -> CausalState:
        """Before the first frame."""
        blocks = tuple(block.initial_state(batch, self.bands) for block in self.stack.parts())
        return CausalState(self._front(batch), blocks)

    def step(self, spec: Tensor, conditioning: Conditioning, state: CausalState) -> tuple[Tensor, CausalState]:
        """One frame; as `advance`, for spec [batch, bins] and masks [batch, sources, bins, 2]."""
        self._check_causal()
        tokens, bins, front = self._encode(spec[:, None], state.front)
        seen, count = state.front.seen, conditioning.count
        frame, blocks = self.stack.step(tokens[:, 0], conditioning.prefix, count, state.blocks, seen)
        return self._masks(frame[:, None], bins, conditioning)[:, :, 0], CausalState(front, blocks)

    def _check_causal(self) -> None:
        if not self.config.causal:
            raise InputError("this model is not causal: it separates recordings as a whole")

    def _encode(self, spec: Tensor, state: FrontState) -> tuple[Tensor, Tensor, FrontState]:
        """Band tokens [batch, frames, bands, dim], bin tokens, and the new state."""
        magnitude = spec.abs()
        level = running_mean(magnitude.mean(-1), state.level, state.seen, self.config.level_frames)
        if not self.config.causal:
            level = level[:, -1:].expand_as(level)
        # Compressed: square roots of magnitudes, whose mean square is the mean magnitude.
        root = (magnitude + 1e-8).sqrt()
        gain = (level + 1e-4).rsqrt()[..., None]
        pairs = torch.view_as_real(spec) * (gain / root)[..., None]
        features = torch.cat((pairs, (root * gain)[..., None]), -1)
        tokens, bins, kept = self.encoder.advance(features, state.encoder)
        return tokens, bins, FrontState(state.seen + spec.shape[1], level[:, -1], kept)

    def _masks(self, frames: Tensor, bins: Tensor, conditioning: Conditioning) -> Tensor:
        x = self.norm(frames)[:, None] * conditioning.scale + conditioning.shift
        x = self.extraction(x.flatten(0, 1), 2).unflatten(0, x.shape[:2])
        return self.decoder(x, bins)


def running_mean(x: Tensor, mean: Tensor, seen: Tensor, limit: int) -> Tensor:
    """Mean of everything up to each frame, which after `limit` frames forgets with that time constant.

    Args:
        x: [batch, frames], not empty. mean: [batch], before them. seen: [batch], frames that it is made of.
    Returns:
        [batch, frames].
    """
    count = (seen[:, None] + torch.arange(1, x.shape[1] + 1, device=x.device)).clamp(max=limit).to(x.dtype)
    keep, add = 1 - 1 / count, x / count
    add = torch.cat((add[:, :1] + keep[:, :1] * mean[:, None], add[:, 1:]), 1)
    # y[t] = keep[t] y[t - 1] + add[t], in logarithmically many steps.
    step = 1
    while step < x.shape[1]:
        add = torch.cat((add[:, :step], add[:, step:] + keep[:, step:] * add[:, :-step]), 1)
        keep = torch.cat((keep[:, :step], keep[:, step:] * keep[:, :-step]), 1)
        step *= 2
    return add
