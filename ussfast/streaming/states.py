"""What a session remembers as a dataclass of tensors and as a file, and whether it is one that fits."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ussfast.audio.atomic import atomic_write
from ussfast.engine.levels import LOUDEST
from ussfast.engine.nested import described, like, tensors_of
from ussfast.errors import InputError
from ussfast.prompts.bank import Plan
from ussfast.streaming.resampler import ResamplerState

CHANNELS = 1024  # that a stream may have
LARGEST = 1 << 30  # bytes of a file; a session of 64 channels has less
CLOSE = 1e-3  # shares of the largest number by which a prompt may differ: enrolled on another machine, it does


@dataclass(frozen=True)
class SessionState:
    """All that a session remembers; tensors only.

    labels: uint8 [bytes], of the stems, see `written`. vectors: [sources, dim], empty for models without prompts.
    rates: int64 [2], in Hz, of the stream and of the model. slots: int64 [sources], tracks that the sources are in.
    core: of the model. incoming, outgoing: of the conversions to the model's rate and back. mixture: [channels, n]
    input whose stems are still to come.
    """

    labels: Tensor
    vectors: Tensor = field(metadata={"within": (-1e30, 1e30)})
    rates: Tensor
    slots: Tensor
    core: Any
    incoming: ResamplerState
    outgoing: ResamplerState
    mixture: Tensor = field(metadata={"within": (-LOUDEST, LOUDEST)})


def written(labels: tuple[str, ...]) -> Tensor:
    """Labels as UTF-8 with a zero between them."""
    return torch.tensor(list("\0".join(labels).encode(errors="surrogatepass")), dtype=torch.uint8)


def vectors_of(plan: Plan) -> Tensor:
    """A copy, on the CPU."""
    return torch.zeros(0, 0) if plan.vectors is None else plan.vectors.detach().cpu().clone()


def check_asked(plan: Plan, state: Any) -> None:
    """InputError unless the state is of a session with the same prompts, by name and by what they mean."""
    if not isinstance(state, SessionState):
        raise InputError(f"a session goes on from a SessionState, not from {described(state)}")
    labels, vectors = state.labels, vectors_of(plan)
    if not isinstance(labels, Tensor) or labels.dtype != torch.uint8 or labels.dim() != 1:
        raise InputError(f"labels must be uint8 [bytes], not {described(labels)}")
    if not torch.equal(labels.cpu(), written(plan.labels)):
        theirs = bytes(labels[:300].tolist()).decode(errors="replace").split("\0")
        raise InputError(
            f"the state is of a session with the stems {', '.join(map(repr, theirs))}, this one has "
            f"{', '.join(map(repr, plan.labels))}: open it with the same prompts in the same order"
        )
    near = CLOSE * float(vectors.abs().max()) if vectors.numel() else 0.0
    if described(state.vectors) != described(vectors) or not torch.allclose(state.vectors.cpu(), vectors, 0, near):
        raise InputError(
            f"the state is of a session whose prompts {', '.join(map(repr, plan.labels))} mean something else: they "
            "are of another model, or were enrolled from other clips"
        )


def channels_of(state: SessionState, expected: int | None) -> int:
    """Of the stream; InputError if there are none, too many, or not as many as expected."""
    mixture = state.mixture
    if not isinstance(mixture, Tensor) or mixture.dim() != 2 or not 1 <= len(mixture) <= CHANNELS:
        raise InputError(f"mixture must be [channels, samples], 1 to {CHANNELS} channels, not {described(mixture)}")
    if expected not in (None, len(mixture)):
        raise InputError(f"the state is of a stream of {len(mixture)} channels, this one has {expected}")
    return len(mixture)


def slots_of(state: SessionState, sources: int, room: int) -> tuple[int, ...]:
    """InputError unless each source is in a track of its own, of as many as there are."""
    slots = state.slots
    if not isinstance(slots, Tensor) or slots.dtype != torch.int64 or slots.shape != (sources,):
        raise InputError(f"slots must be int64 [{sources}], not {described(slots)}")
    found = tuple(slots.tolist())
    if len(set(found)) < sources or not all(0 <= slot < room for slot in found):
        raise InputError(f"slots must be different and from 0 to {room - 1}, got {list(found)}")
    return found


def save(path: Path, state: SessionState) -> None:
    """Writes a safetensors file."""
    with atomic_write(path) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in tensors_of(state).items()}, temporary)


def load(path: str | Path, template: SessionState) -> SessionState:
    """What `save` wrote; InputError for a file that is none, or of tensors with other names."""
    try:
        path = Path(path)
        if path.stat().st_size > LARGEST:
            raise InputError(f"larger than {LARGEST >> 20} MiB")
        with safe_open(path, "pt") as file:
            names = set(file.keys())
            tensors = {name: file.get_tensor(name) for name in names & tensors_of(template).keys()}
    except Exception as error:  # whatever a damaged file makes of its reader
        raise InputError(f"{path}: not a session state: {' '.join(str(error).split())}") from error
    return like(template, tensors | dict.fromkeys(names - tensors.keys(), torch.empty(0)))
