"""Tensors in dataclasses and tuples: what streams remember and what graphs are given.

A dataclass says beside each field of numbers between which bounds they are: field(metadata={"within": (low, high)}).
"""

import dataclasses
from typing import Any, TypeVar

import torch
from torch import Tensor

from ussfast.errors import InputError

T = TypeVar("T")

MOST = 1 << 53  # samples that a stream may count: millennia, and 1000 times as many, at another rate, fit into int64


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
    """The same structure with other tensors, by the names of `tensors_of`; InputError unless all are there, and no
    others."""
    missing = sorted(tensors_of(template).keys() ^ tensors.keys())
    if missing:
        wrong = "is not of one" if missing[0] in tensors else "is missing"
        raise InputError(f"this is not a state of such a session: {missing[0]!r} {wrong}")
    found: T = _like(template, tensors, "")
    return found


def _like(template: Any, tensors: dict[str, Tensor], prefix: str) -> Any:
    if template is None:
        return None
    if isinstance(template, Tensor):
        return tensors[prefix]

    def part(name: str, value: Any) -> Any:
        return _like(value, tensors, f"{prefix}.{name}" if prefix else name)

    if dataclasses.is_dataclass(template):
        kind: Any = type(template)
        return kind(**{f.name: part(f.name, getattr(template, f.name)) for f in dataclasses.fields(template)})
    return tuple(part(str(number), value) for number, value in enumerate(template))


def counted(state: Any, name: str) -> int:
    """A field that counts samples, int64 [], 0 to MOST; InputError if it is anything else."""
    value = getattr(state, name)
    if not isinstance(value, Tensor) or value.dtype != torch.int64 or value.shape != ():
        raise InputError(f"{name} must be int64 [], not {described(value)}")
    if not 0 <= int(value) <= MOST:
        raise InputError(f"{name} must be 0 to {MOST}, not {int(value)}")
    return int(value)


def fit(template: Any, state: Any) -> None:
    """Checks what is to be gone on from, all of it, before anything changes.

    Args:
        template: what it must be like: the same structure, shapes and types, the same whole numbers. Of other numbers
            only bounds are known, those beside the fields.
        state: from anywhere.
    Raises:
        InputError: names the first field that is not so.
    """
    _fit(template, state, "", None)


def _fit(template: Any, state: Any, name: str, within: tuple[float, float] | None) -> None:
    if isinstance(template, Tensor):
        wrong = _wrong(template, state, within)
        if wrong:
            raise InputError(f"the state is of another session: {name} {wrong}")
        return
    same = type(state) is type(template)
    if not same or (isinstance(template, tuple) and len(state) != len(template)):
        raise InputError(
            f"the state is of another session: {name or 'it'} is {described(state)}, expected {described(template)}"
        )
    if dataclasses.is_dataclass(template):
        for field in dataclasses.fields(template):
            inside = f"{name}.{field.name}" if name else field.name
            _fit(getattr(template, field.name), getattr(state, field.name), inside, field.metadata.get("within"))
    elif template is not None:
        for number, (mine, theirs) in enumerate(zip(template, state, strict=True)):
            _fit(mine, theirs, f"{name}.{number}", within)


def _wrong(template: Tensor, value: Any, within: tuple[float, float] | None) -> str:
    """What is, in words; "" if nothing."""
    if described(value) != described(template):
        return f"is {described(value)}, expected {described(template)}"
    if not template.dtype.is_floating_point:
        return "" if torch.equal(value.cpu(), template.cpu()) else f"is {_told(value)}, expected {_told(template)}"
    assert within is not None, "bounds belong beside the field"
    inside = (value >= within[0]) & (value <= within[1])  # NaN is not
    return "" if inside.all() else f"has numbers that are not within {within[0]:g} to {within[1]:g}"


def _told(value: Tensor) -> str:
    return str(value.tolist()) if value.numel() <= 8 else "other numbers"


def described(value: object) -> str:
    """A tensor's type and shape; of others, what they are."""
    if isinstance(value, tuple):
        return f"a tuple of {len(value)}"
    if not isinstance(value, Tensor):
        return type(value).__name__
    kind = str(value.dtype).removeprefix("torch.")
    plain = value.layout == torch.strided and not value.is_meta
    return f"{kind} {list(value.shape)}" + ("" if plain else ", but without memory of its own")


def copied(state: T) -> T:
    """A copy that shares no memory."""
    return like(state, {name: tensor.detach().clone() for name, tensor in tensors_of(state).items()})
