"""Checks of what callers choose: the value as a plain one, or an InputError that names it and what would be right."""

import math
import numbers
import operator
import reprlib
from collections.abc import Sequence
from typing import Any

from ussfast.errors import InputError


def number(value: Any, name: str, least: float, most: float, unit: str = "") -> float:
    """A finite number from `least` to `most`, of any numeric type but bool."""
    plain = _plain(value)
    if plain is None or not least <= plain <= most:
        unit = f" {unit}" if unit else ""
        raise InputError(f"{name} must be a number from {least:g}{unit} to {most:g}{unit}, got {shown(value)}")
    return float(plain)


def real(value: Any, name: str) -> float:
    """A number of any numeric type but bool, also one that is not finite."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputError(f"{name} must be a number, got {shown(value)}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value == abs(value) else -math.inf


def whole(value: Any, name: str, least: int, most: int) -> int:
    """A whole number from `least` to `most`; 2.0 is one."""
    plain = _plain(value)
    if plain is None or plain != plain // 1 or not least <= plain <= most:
        raise InputError(f"{name} must be a whole number from {least} to {most}, got {shown(value)}")
    return int(plain)


def flag(value: Any, name: str) -> bool:
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):  # NumPy's own
        raise InputError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def one_of(value: Any, name: str, choices: Sequence[str]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise InputError(f"{name} must be one of {', '.join(choices)}, got {shown(value)}")
    return value


def shown(value: Any) -> str:
    """One short line that says what was given."""
    try:
        text = reprlib.repr(value)
    except ValueError:  # whole numbers of thousands of digits have no text
        text = f"a {type(value).__name__}"
    return " ".join(text.split())


def _plain(value: Any) -> int | float | None:
    """As an int or a finite float; None if it is neither."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return None
    if isinstance(value, numbers.Integral):
        return operator.index(value)
    plain = real(value, "")
    return plain if math.isfinite(plain) else None
