"""Typed reading of published YAML settings, with errors that name the entry."""

from collections.abc import Mapping
from typing import Any

from ussfast.errors import CheckpointError, InputError
from ussfast.plain import convert, shown

_REQUIRED = object()


def _convert(kind: type, value: Any, where: str) -> Any:
    try:
        return convert(kind, value, where)
    except InputError as error:
        raise CheckpointError(str(error)) from None


class Table:
    """A mapping of settings and where it stands in its file."""

    def __init__(self, data: Any, where: str):
        if not isinstance(data, dict):
            raise CheckpointError(f"{where} must be a table of settings, got {type(data).__name__}")
        self.data, self.where = data, where

    def get(self, name: str, kind: type, default: Any = _REQUIRED) -> Any:
        value = self.data.get(name, default)
        if value is _REQUIRED:
            raise CheckpointError(f"{self.where} has no entry {name!r}")
        if value is None and default is not _REQUIRED:
            return default
        if kind is float and isinstance(value, str):
            # YAML 1.1 reads 1e-5 (without a dot) as text.
            try:
                value = float(value)
            except ValueError:
                pass
        return _convert(kind, value, f"{self.where}.{name}")

    def choice(self, name: str, choices: Mapping[Any, Any], default: Any = _REQUIRED) -> Any:
        value = self.data.get(name, default)
        if value is _REQUIRED:
            raise CheckpointError(f"{self.where} has no entry {name!r}")
        if value not in list(choices):  # a list: the value may be of a kind that cannot be looked up
            raise CheckpointError(f"{self.where}.{name} must be one of {list(choices)}, got {shown(value)}")
        return choices[value]

    def table(self, name: str, optional: bool = False) -> "Table":
        value = self.data.get(name)
        if value is None and optional:
            value = {}
        if value is None:
            raise CheckpointError(f"{self.where} has no table {name!r}")
        return Table(value, f"{self.where}.{name}")

    def list_of(self, name: str, kind: type) -> list[Any]:
        values = self.get(name, list)
        return [_convert(kind, value, f"{self.where}.{name}[{i}]") for i, value in enumerate(values)]

    def tables(self, name: str) -> list["Table"]:
        return [Table(row, f"{self.where}.{name}[{i}]") for i, row in enumerate(self.get(name, list))]
