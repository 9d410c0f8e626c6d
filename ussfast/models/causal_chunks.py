"""A recording of any length through a causal model, chunk by chunk, as exact as at once."""

from collections.abc import Iterable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast import stft
from ussfast.models.causal_tuss import CausalTuss, Conditioning


def separate_chunks(
    model: CausalTuss, blocks: Iterable[Tensor], conditioning: Conditioning, frames: int, shared: bool = False
) -> Iterator[Tensor]:
    """What `CausalTuss.separate` gives for all blocks together, with memory for one chunk.

    Args:
        model: causal.
        blocks: [rows, samples] each, of any length, at the model's rate.
        conditioning: of the prompts, from `CausalTuss.condition`.
        frames: of a chunk, at least 1.
        shared: the rows are channels of one recording that get the same masks, those of their mean.
    Yields:
        [rows, sources, m]; as many samples in all as went in.
    """
    hop, ahead = model.config.stft.hop, model.config.look_ahead
    # Frame t reads the samples around t * hop: a hop of zeros comes before the first, zeros fill up the last.
    held: Tensor | None = None
    chunk = _Chunks(model, conditioning, shared)
    samples = given = 0
    for block in blocks:
        samples += block.shape[1]
        held = F.pad(block, (hop, 0)) if held is None else torch.cat((held, block), 1)
        while held.shape[1] >= (frames + 1) * hop:
            out = chunk.run(held[:, : (frames + 1) * hop])
            held = held[:, frames * hop :]
            given += out.shape[-1]
            if out.shape[-1]:
                yield out
    if held is None or not samples:
        return
    # The last frame is centred on the last sample or behind it, and its masks come `ahead` frames later still.
    rest = held.shape[1] + -held.shape[1] % hop + hop
    out = chunk.run(F.pad(held, (0, rest - held.shape[1])), ahead)
    yield out[..., : samples - given]


class _Chunks:
    """What the frames of one chunk leave behind for the next."""

    def __init__(self, model: CausalTuss, conditioning: Conditioning, shared: bool):
        self.model, self.conditioning, self.shared = model, conditioning, shared
        self.state = None
        self.early = model.config.look_ahead  # masks still to come that are for frames before the beginning
        self.spectra: Tensor | None = None  # of the last frame with a mask and of those that wait for theirs
        self.masks: Tensor | None = None  # of the last frame

    def run(self, audio: Tensor, ahead: int = 0) -> Tensor:
        """[rows, (frames + 1) * hop], the first hop seen before, -> [rows, sources, samples that are complete now]."""
        config = self.model.config.stft
        framed = audio.unfold(1, config.n_fft, config.hop) * stft.window(config, audio.device)
        spec = torch.fft.rfft(framed)
        spec = torch.cat((spec, spec.new_zeros(len(spec), ahead, config.bins)), 1) if ahead else spec
        seen = spec.mean(0, keepdim=True) if self.shared else spec
        if self.state is None:
            self.state = self.model.initial_chunk(len(seen))
        masks, self.state = self.model.advance(seen, self.conditioning, self.state)
        masks = masks.expand(len(spec), *masks.shape[1:])
        early = min(self.early, masks.shape[2])
        masks, self.early = masks[:, :, early:], self.early - early
        if self.spectra is not None and self.masks is not None:
            spec, masks = torch.cat((self.spectra, spec), 1), torch.cat((self.masks, masks), 2)
        count = masks.shape[2]
        self.spectra, self.masks = spec[:, max(0, count - 1) :], masks[:, :, max(0, count - 1) :]
        if count < 2:
            return audio.new_zeros(len(spec), masks.shape[1], 0)
        return stft.synthesize(masks, config, (count - 1) * config.hop, spec[:, :count])
