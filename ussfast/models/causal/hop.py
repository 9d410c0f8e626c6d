"""One hop of audio in, one hop of every source out: the frame-by-frame form of a causal model."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ussfast import stft
from ussfast.errors import InputError
from ussfast.models._linked import linked
from ussfast.models.causal import CausalModel, Modulation, TrunkState


@dataclass(frozen=True)
class StreamState:
    """All that a batch of streams remembers; tensors only.

    context: [rows, hop] newest input. overlap: [rows, sources, hop] output that the next frame adds to. frames: of the
    network, for as many items, or for fewer: then the rows are [items * channels], and the channels of an item get the
    same masks, see `linked`.
    """

    # Far beyond audio, and the squares of what is made of it still are numbers.
    context: Tensor = field(metadata={"within": (-1e12, 1e12)})
    overlap: Tensor = field(metadata={"within": (-1e16, 1e16)})
    frames: TrunkState


def initial_state(model: CausalModel, batch: int, sources: int, channels: int = 1) -> StreamState:
    """Before the first sample; channels: of each item that share their masks."""
    hop, rows, frames = model.config.stft.hop, batch * channels, model.initial_state(batch)
    new = frames.level.new_zeros
    return StreamState(new(rows, hop), new(rows, sources, hop), frames)


def step(model: CausalModel, audio: Tensor, state: StreamState, modulation: Modulation) -> tuple[Tensor, StreamState]:
    """The next hop of every stream.

    Args:
        audio: [rows, hop] at the model's rate.
        state: from `initial_state` or the last call; not modified.
        modulation: of the prompts, from `CausalModel.condition`.
    Returns:
        [rows, sources, hop]: what came in `model.config.latency_samples - hop` samples earlier, separated; the state
        after it. The same samples as `CausalModel.separate` gives for the whole.
    Raises:
        InputError (a ValueError): audio is not one hop.
    """
    config = model.config.stft
    if audio.dim() != 2 or audio.shape[1] != config.hop or audio.shape[0] != state.context.shape[0]:
        raise InputError(
            f"a step takes [rows, samples] = {[state.context.shape[0], config.hop]}, got {list(audio.shape)}"
        )
    if (found := model.hop_at_once(audio, state.context, state.overlap, modulation, state.frames)) is not None:
        return found[0], StreamState(*found[1:])
    window = stft.window(config, audio.device).to(audio.dtype)
    spec = torch.fft.rfft(torch.cat((state.context, audio), 1) * window)
    channels = len(audio) // state.frames.items
    masks, frames = model.step(linked(spec.unflatten(0, (-1, channels)), 1), modulation, state.frames)
    masks = masks.repeat_interleave(channels, 0)
    estimate = torch.view_as_complex(masks.contiguous()) * spec[:, None]
    late = torch.fft.irfft(estimate, n=config.n_fft) * window
    # Every sample lies in two frames: the sum of squared windows repeats with the hop.
    out = (state.overlap + late[..., : config.hop]) / window.square().view(2, -1).sum(0)
    return out, StreamState(audio.clone(), late[..., config.hop :], frames)
