"""Tensors in dataclasses and tuples: what streams remember and what graphs are given."""

import dataclasses
from typing import Any, TypeVar

from torch import Tensor

from ussfast.errors import InputError

T = TypeVar("T")


def tensors_of(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """All tensors of nested dataclasses and tuples by dotted names; None has none."""
    if state is None:
        return {}
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
    if template is None:
        return None
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
