"""Plain data that anybody may have written (JSON, YAML): read within bounds, and made into frozen dataclasses.

What a field may hold stands beside it: `blocks: Annotated[int, Range(1, 1000)]`. Numbers are finite in any case.
Nothing here needs torch.
"""

import dataclasses
import functools
import json
import math
import types
import typing
from typing import IO, Annotated, Any, Literal, Protocol, TypeVar, cast

from ussfast.errors import InputError

T = TypeVar("T")

MOST_JSON, MOST_YAML = 4 << 20, 1 << 19  # bytes of a file; YAML is slow to read
MOST_DEPTH = 60
MOST_VALUES = 200_000  # of YAML, counted as often as they are referred to


@dataclasses.dataclass(frozen=True)
class Range:
    """Least and most of a number, or of the length of a list."""

    least: float
    most: float

    def fault(self, value: Any) -> str | None:
        if isinstance(value, int | float):
            return None if self.least <= value <= self.most else f"must be {self}"
        return None if self.least <= len(value) <= self.most else f"must have {self} entries"

    def __str__(self) -> str:
        if self.least == self.most:
            return f"{self.least:.10g}"
        return f"{self.least:.10g} to {self.most:.10g}"


@dataclasses.dataclass(frozen=True)
class Word:
    """Text that fits into a line."""

    most: int = 255

    def fault(self, value: str) -> str | None:
        fits = 0 < len(value) <= self.most and value.isprintable()
        return None if fits else f"must be 1 to {self.most} characters that can be printed"


Name = Annotated[str, Word()]
Share = Annotated[float, Range(0, 1)]


class Checked:
    """Base of frozen dataclasses whose values are checked against what their fields declare, however they are made.

    Raises InputError. A `__post_init__` of their own begins with that of this class.
    """

    def __post_init__(self) -> None:
        for name, hint in _hints(cast(Any, type(self))).items():
            convert(hint, getattr(self, name), f"{type(self).__name__}.{name}")


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Builds `cls` from its plain form; unknown, missing and ill-typed entries are InputErrors that name them."""
    hints = _hints(cast(Any, cls))
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    _check_table(data, where)
    unknown = sorted(map(str, data.keys() - fields.keys()))
    missing = sorted(needed(cls) - data.keys())
    if unknown or missing:
        raise InputError(
            f"{where} does not describe a {cls.__name__}: unknown {unknown or 'none'}, missing {missing or 'none'}"
        )
    return cls(**{name: convert(hints[name], value, f"{where}.{name}") for name, value in data.items()})


def check_known(cls: type, data: Any, where: str) -> None:
    """InputError unless the entries that `cls` has fields for are there and fit; others may be anything."""
    _check_table(data, where)
    if missing := sorted(needed(cls) - data.keys()):
        raise InputError(f"{where} lacks {', '.join(missing)}")
    names = {field.name for field in dataclasses.fields(cls)}
    from_dict(cls, {name: value for name, value in data.items() if name in names}, where)


def needed(cls: type) -> set[str]:
    """Names of the fields without a default."""
    nothing = dataclasses.MISSING
    return {f.name for f in dataclasses.fields(cls) if f.default is nothing and f.default_factory is nothing}


def _check_table(data: Any, where: str) -> None:
    if not isinstance(data, dict):
        raise InputError(f"{where} must be a table of settings, got {type(data).__name__}")


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cast(Any, cls))}


def convert(hint: Any, value: Any, where: str) -> Any:
    """`value` as the type `hint`, if it is of that type and fits; only the kinds of hints that are used here."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = convert(args[0], value, where)
        faults = (rule.fault(value) for rule in hint.__metadata__ if value is not None)
        if fault := next(filter(None, faults), None):
            raise InputError(f"{where} {fault}, got {shown(value)}")
        return value
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, cast(type, hint)) else from_dict(cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        kinds = [a for a in args if a is not type(None)]
        # Of several, the one that the value is of; the first one says what is wrong.
        return convert(next((kind for kind in kinds if type(value) is kind), kinds[0]), value, where)
    if origin is Literal:
        if value not in list(args):
            raise InputError(f"{where} must be one of {list(args)}, got {shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} must be a list, got {shown(value)}")
        return tuple(convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    whole = isinstance(value, int) and not isinstance(value, bool)
    if hint is float and whole and abs(value) < 1 << 63:
        return float(value)
    if not isinstance(value, hint) or (hint is int and not whole):
        raise InputError(f"{where} must be a {hint.__name__}, got {shown(value)}")
    if (hint is float and not math.isfinite(value)) or (hint is int and abs(value) >= 1 << 63):
        raise InputError(f"{where} must be a finite number that fits into 64 bits, got {shown(value)}")
    return value


def shown(value: Any, most: int = 60) -> str:
    """A value from a file as a message shows it."""
    if isinstance(value, int) and abs(value) >= 1 << 63:
        return "a number of more than 64 bits"
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    text = repr(value[: most + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= most + 2 else f"{text[:most]}..."


class Readable(Protocol):
    """A path, or a resource of a package."""

    def open(self, mode: Literal["rb"], /) -> IO[bytes]: ...


def read_json(path: Readable, most: int | None = MOST_JSON) -> Any:
    """A file of JSON as it is defined: without NaN, infinities and numbers that become such, of bounded size and depth.

    Raises:
        InputError: what it is instead, or that it cannot be read, in one line without the path.
    """
    return parse_json(_content(path, "JSON", most))


def parse_json(data: bytes | str) -> Any:
    """What `read_json` reads, from memory: as large as it is."""
    try:
        value = json.loads(data, parse_constant=_no_number, parse_float=_finite)
    except RecursionError:
        raise InputError(f"not readable as JSON: nested deeper than {MOST_DEPTH}") from None
    except ValueError as error:
        raise InputError(f"not readable as JSON: {error}") from None
    _check_tree(value, "JSON")
    return value


def _content(path: Readable, kind: str, most: int | None) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read() if most is None else file.read(most + 1)
    except OSError as error:
        raise InputError(f"not readable: {error.strerror}") from None
    if most is not None and len(data) > most:
        raise InputError(f"not readable as {kind}: more than {most} bytes")
    return data


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is not a number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _no_number(shown(text))


def read_yaml(path: Readable, most: int = MOST_YAML) -> Any:
    """A file of YAML's plain values, of bounded size and depth, also where aliases multiply them.

    Raises:
        InputError: as for `read_json`.
        ImportError: there is no PyYAML.
    """
    import yaml

    data = _content(path, "YAML", most)
    try:
        loader = yaml.SafeLoader(data)
        node = loader.get_single_node()
        _check_tree(node, "YAML")
        value = None if node is None else loader.construct_document(node)
    except InputError:
        raise
    except RecursionError:
        raise InputError(f"not readable as YAML: nested deeper than {MOST_DEPTH}") from None
    except Exception as error:
        # What PyYAML raises for an impossible date or number depends on how that is wrong.
        raise InputError(f"not readable as YAML: {' '.join(str(error).split())}") from None
    _check_tree(value, "YAML")
    return value


def _check_tree(tree: Any, kind: str) -> None:
    """InputError where it is too deep, too large (what several refer to counts each time), or has text that is none.

    tree: plain values, or nodes of YAML, whose values are text or lists of nodes and of pairs of them.
    """
    count, waiting = 0, [(tree, 1)]
    while waiting:
        value, depth = waiting.pop()
        count += 1
        if depth > MOST_DEPTH:
            raise InputError(f"not readable as {kind}: nested deeper than {MOST_DEPTH}")
        if count > MOST_VALUES and kind == "YAML":
            raise InputError(f"not readable as {kind}: more than {MOST_VALUES} values, aliases followed")
        if isinstance(value, str):
            try:
                value.encode()
            except UnicodeEncodeError:
                raise InputError(f"not readable as {kind}: half a character in {shown(value)}") from None
        elif isinstance(value, dict):
            waiting += [(child, depth + 1) for pair in value.items() for child in pair]
        elif isinstance(value, (list, tuple, set)):
            waiting += [(child, depth + 1) for child in value]
        elif isinstance(nodes := getattr(value, "value", None), list):
            waiting += [(c, depth + 1) for node in nodes for c in (node if isinstance(node, tuple) else (node,))]
