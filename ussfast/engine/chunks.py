"""A recording of any length through a causal model, chunk by chunk, as exact as at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast import stft
from ussfast.engine.advancing import Advancing
from ussfast.engine.graphs import bucket
from ussfast.models._linked import linked
from ussfast.models.causal import Modulation, TrunkState


class CausalChunks:
    """What `CausalModel.separate` gives for all pushed audio together, with memory for one chunk.

    Args:
        modulation: of the prompts, from `model.condition`.
        frames: of a chunk, at least 1.
        shared: the rows are channels of one recording that get the same masks, see `linked`.
        advance: the network.
    """

    def __init__(self, advance: Advancing, modulation: Modulation, frames: int, shared: bool = False):
        self.model, self.advance, self.modulation, self.shared = advance.model, advance, modulation, shared
        self.size = (frames + 1) * self.model.config.stft.hop
        self.taken = self.given = 0
        # Samples of frames to come; spectrum and mask of the last frame.
        self.held: Tensor | None = None
        self.spectra: Tensor | None = None
        self.masks: Tensor | None = None
        self.state: TrunkState | None = None

    def push(self, audio: Tensor) -> Tensor:
        """[rows, samples] at the model's rate, any number -> [rows, sources, samples that are complete now]."""
        hop = self.model.config.stft.hop
        self.taken += audio.shape[1]
        # Frame t reads the samples around t * hop: a hop of zeros comes before the first.
        self.held = F.pad(audio, (hop, 0)) if self.held is None else torch.cat((self.held, audio), 1)
        parts = [audio.new_zeros(len(audio), self.modulation.scale.shape[1], 0)]
        at = 0
        while self.held.shape[1] - at >= self.size:
            parts.append(self._run(self.held[:, at : at + self.size]))
            at += self.size - hop
        self.held = self.held[:, at:].clone()
        out = torch.cat(parts, -1)
        self.given += out.shape[-1]
        return out

    def flush(self) -> Tensor:
        """The rest; nothing can be pushed after it."""
        if self.held is None or not self.taken:
            raise ValueError("nothing was pushed")
        hop = self.model.config.stft.hop
        # The last frame is centred on the last sample or behind it.
        fill = -self.held.shape[1] % hop + hop
        if self.advance.graphs.on:
            # Silence behind the end changes nothing before it, and few graphs serve all lengths.
            frames = (self.held.shape[1] + fill) // hop - 1
            fill += (bucket(frames) - frames) * hop
        out = self._run(F.pad(self.held, (0, fill)))
        return out[..., : self.taken - self.given]

    def _run(self, audio: Tensor) -> Tensor:
        """Frames of [rows, (frames + 1) * hop], whose first hop was seen before."""
        config = self.model.config.stft
        spec = torch.fft.rfft(audio.unfold(1, config.n_fft, config.hop) * stft.window(config, audio.device))
        seen = linked(spec, 0)[None] if self.shared else spec
        state = self.model.initial_state(len(seen)) if self.state is None else self.state
        masks, self.state = self.advance(seen, self.modulation, state)
        masks = masks.float().expand(len(spec), -1, -1, -1, -1)
        if self.spectra is not None and self.masks is not None:
            spec, masks = torch.cat((self.spectra, spec), 1), torch.cat((self.masks, masks), 2)
        last = masks.shape[2] - 1
        self.spectra, self.masks = spec[:, last:].clone(), masks[:, :, last:].clone()
        if not last:
            return audio.new_zeros(len(spec), masks.shape[1], 0)
        return stft.synthesize(masks, config, last * config.hop, spec[:, : last + 1])
