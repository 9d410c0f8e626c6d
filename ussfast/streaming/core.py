"""The half of a session that works at the model's rate: what causal and other models have in common."""

import dataclasses
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import Tensor

from ussfast.errors import InputError
from ussfast.segments import Groups

T = TypeVar("T")


class Core(Protocol):
    """Audio at the model's rate in, one row per slot out.

    A slot is a track of the output that a source can be sent to: when prompts change, sources that go on keep their
    slots, ended ones fade out in theirs, and new ones fade in in free ones. Slots without a source are silent.

    latency: samples that follow a sample before its output is there.
    fade: samples of output in which old and new prompts may both be heard, counted from a change.
    hop: samples that are computed at once.
    """

    latency: int
    fade: int
    hop: int

    def push(self, audio: np.ndarray) -> np.ndarray:
        """[channels, n] float32, any n -> [slots, channels, m], what is complete; m may be 0."""

    def flush(self) -> np.ndarray:
        """The rest: as many samples in all as went in."""

    def reset(self) -> None:
        """Forgets all audio; prompts and slots stay."""

    def set_prompts(self, vectors: Tensor | None, slots: tuple[int, ...], groups: Groups = ()) -> None:
        """What the frames to come are separated by.

        Args:
            vectors: [sources, dim]; None for models without prompts.
            slots: of each source.
            groups: sources that are asked for by equal prompts.
        """

    @property
    def state(self) -> Any:
        """A dataclass of tensors, possibly nested, that is a copy."""

    def load(self, state: Any) -> None:
        """Goes on from a state of such a core; the prompts must be those that it was taken with."""


def tensors_of(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested dataclasses and tuples by dotted names."""
    if isinstance(state, Tensor):
        return {prefix: state}
    if dataclasses.is_dataclass(state):
        parts = [(field.name, getattr(state, field.name)) for field in dataclasses.fields(state)]
    else:
        parts = [(str(number), part) for number, part in enumerate(state)]
    return {k: v for name, part in parts for k, v in tensors_of(part, f"{prefix}.{name}" if prefix else name).items()}


def like(template: T, tensors: dict[str, Tensor]) -> T:
    """The same structure with other tensors, by the names of `tensors_of`; InputError if one is missing."""
    found: T = _like(template, tensors, "")
    return found


def _like(template: Any, tensors: dict[str, Tensor], prefix: str) -> Any:
    if isinstance(template, Tensor):
        if prefix not in tensors or tensors[prefix].dtype != template.dtype:
            raise InputError(f"this is not a state of such a session: {prefix} is missing or of another type")
        return tensors[prefix]

    def part(name: str, value: Any) -> Any:
        return _like(value, tensors, f"{prefix}.{name}" if prefix else name)

    if dataclasses.is_dataclass(template):
        kind: Any = type(template)
        return kind(**{f.name: part(f.name, getattr(template, f.name)) for f in dataclasses.fields(template)})
    return tuple(part(str(number), value) for number, value in enumerate(template))


def copied(state: T) -> T:
    """A copy that shares no memory."""
    return like(state, {name: tensor.detach().clone() for name, tensor in tensors_of(state).items()})
