"""One hop of audio in, one hop of every source out: the frame-by-frame form of a causal model."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ussfast import stft
from ussfast.errors import InputError
from ussfast.models.causal_tuss import CausalState, CausalTuss, Conditioning


@dataclass(frozen=True)
class StreamState:
    """All that a batch of streams remembers; tensors only.

    context: [batch, n_fft - hop] newest input. waiting: [batch, look_ahead, bins, 2] spectra whose masks are still to
    come. overlap: [batch, sources, n_fft - hop] output that later frames will add to. frames: of the network.
    """

    context: Tensor
    waiting: Tensor
    overlap: Tensor
    frames: CausalState


def initial_state(model: CausalTuss, batch: int, sources: int) -> StreamState:
    """Before the first sample."""
    config, weight = model.config.stft, model.band_rows
    kept = config.n_fft - config.hop
    return StreamState(
        weight.new_zeros(batch, kept),
        weight.new_zeros(batch, model.config.look_ahead, config.bins, 2),
        weight.new_zeros(batch, sources, kept),
        model.initial_state(batch),
    )


def step(
    model: CausalTuss, audio: Tensor, state: StreamState, conditioning: Conditioning
) -> tuple[Tensor, StreamState]:
    """The next hop of every stream.

    Args:
        audio: [batch, hop] at the model's rate.
        state: from `initial_state` or the last call; not modified.
        conditioning: of the prompts, from `CausalTuss.condition`.
    Returns:
        [batch, sources, hop]: what came in `model.config.latency_samples - hop` samples earlier, separated; the state
        after it. The same samples as `CausalTuss.separate` gives for the whole.
    Raises:
        InputError (a ValueError): audio is not one hop.
    """
    config = model.config.stft
    if audio.dim() != 2 or audio.shape[1] != config.hop or audio.shape[0] != state.context.shape[0]:
        raise InputError(
            f"a step takes [batch, samples] = {[state.context.shape[0], config.hop]}, got {list(audio.shape)}"
        )
    window = stft.window(config, audio.device).to(audio.dtype)
    frame = torch.cat((state.context, audio), 1)
    spec = torch.fft.rfft(frame * window)[:, None]
    masks, frames = model.advance(spec, conditioning, state.frames)
    spectra = torch.cat((state.waiting, torch.view_as_real(spec)), 1)
    target = torch.view_as_complex(spectra[:, :1].contiguous())
    estimate = torch.view_as_complex(masks.contiguous()) * target[:, None]
    late = torch.fft.irfft(estimate[:, :, 0], n=config.n_fft) * window
    total = F.pad(state.overlap, (0, config.hop)) + late
    # Every sample lies in all its frames here: the sum of squared windows repeats with the hop.
    norm = window.square().view(-1, config.hop).sum(0)
    out = total[..., : config.hop] / norm
    return out, StreamState(frame[:, config.hop :], spectra[:, 1:], total[..., config.hop :], frames)
