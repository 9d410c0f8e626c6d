"""A recording of any length through a recurrent network of one direction, chunk by chunk, as exact as at once."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast import stft
from ussfast.models._linked import linked
from ussfast.models.chimera import Chimera, State


class RecurrentChunks:
    """What `Chimera.separate` gives for all pushed audio together, with memory for one chunk.

    Args:
        model: one that `carries_on`.
        frames: that are computed at once, at least 1.
        shared: the rows are channels of one recording that get the same masks, see `linked`.
        autocast: as for `SpectralModel.separate`.
    """

    def __init__(self, model: Chimera, frames: int, shared: bool = False, autocast: bool = False):
        self.model, self.frames, self.shared, self.autocast = model, frames, shared, autocast
        self.taken = self.given = 0
        self.first = 0  # frame of those in `spectra`
        # Samples of frames to come; spectra and masks of the last frames, which still add to samples to come.
        self.held: Tensor | None = None
        self.spectra: Tensor | None = None
        self.masks: Tensor | None = None
        self.state: State | None = None

    def push(self, audio: Tensor) -> Tensor:
        """See `Chunks`."""
        config = self.model.config.stft
        self.taken += audio.shape[1]
        # Frame t reads the samples around t * hop: half a frame of zeros comes before the first.
        self.held = F.pad(audio, (config.n_fft // 2, 0)) if self.held is None else torch.cat((self.held, audio), 1)
        size, at = config.n_fft + (self.frames - 1) * config.hop, 0
        parts = [audio.new_zeros(len(audio), self.model.config.sources, 0)]
        while self.held.shape[1] - at >= size:
            parts.append(self._run(self.held[:, at : at + size]))
            at += self.frames * config.hop
        self.held = self.held[:, at:].clone()
        return torch.cat(parts, -1)

    def flush(self) -> Tensor:
        """See `Chunks`."""
        if self.held is None or not self.taken:
            raise ValueError("nothing was pushed")
        config = self.model.config.stft
        rest = F.pad(self.held, (0, config.n_fft // 2 + stft.frame_fill(self.taken, config)))
        return self._run(rest, last=True)

    def _run(self, audio: Tensor, last: bool = False) -> Tensor:
        """All frames of [rows, samples]; the samples that no later frame reaches, or all if there is none."""
        config = self.model.config.stft
        spec = stft.frames(audio, config)
        seen = linked(spec, 0)[None] if self.shared else spec
        with torch.autocast(spec.device.type, torch.bfloat16, enabled=self.autocast):
            masks, self.state = self.model.carried(seen, self.state)
        masks = masks.float().expand(len(spec), -1, -1, -1, -1)
        if self.spectra is not None and self.masks is not None:
            spec, masks = torch.cat((self.spectra, spec), 1), torch.cat((self.masks, masks), 2)
        count = spec.shape[1]
        before = self.first * config.hop  # samples before the middle of the first frame here
        end = self.taken if last else max(self.given, before + count * config.hop - config.n_fft // 2)
        out = stft.synthesize(masks, config, end - before, spec)[..., self.given - before :]
        self.given = end
        keep = min(count, -(-config.n_fft // config.hop))
        self.first += count - keep
        self.spectra, self.masks = spec[:, count - keep :].clone(), masks[:, :, count - keep :].clone()
        return out
