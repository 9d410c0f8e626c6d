"""A `tensorrt` without libraries and GPU: classes, enums and signatures of real bindings (trt_names.json).

What the bindings of that version do not have raises AttributeError, and a call whose arguments are not those of a
signature raises TypeError, as pybind11 would. Calls are recorded. `trt_world.py` adds what the functions do.
"""

import enum
import importlib.machinery
import json
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

NAMES = Path(__file__).with_name("trt_names.json")
OLDEST, NEWEST = "10.5.0", "11.4.0.106"
VERSIONS = (OLDEST, NEWEST)
Behaviour = Callable[..., Any]


def packages() -> dict[str, dict]:
    return json.loads(NAMES.read_text())["packages"]


class Dims(tuple):
    """Sizes; real ones are sequences of ints as well."""


class StandIn(types.ModuleType):
    """The module. behaviours: what ("Class", "method") does, with self and the checked arguments.

    calls: (class, method, positional arguments, keyword arguments) in order, constructors and properties that are set
    included.
    """

    def __init__(self, version: str, behaviours: dict[tuple[str, str], Behaviour] | None = None):
        super().__init__("tensorrt")
        self.__spec__ = importlib.machinery.ModuleSpec("tensorrt", None)  # torch's tracer asks for it
        package = packages()[version]
        self.__version__ = version
        self.calls: list[tuple[str, str, tuple, dict]] = []
        self.behaviours = behaviours or {}
        for name, described in package["classes"].items():
            setattr(self, name, self._class(name, described))
        self.Dims = Dims
        unknown = [f"{cls}.{method}" for cls, method in self.behaviours if not self._there(package, cls, method)]
        assert not unknown, f"the stand-in does what tensorrt {version} does not: {unknown}"

    def made(self, cls: str, method: str) -> list[tuple[tuple, dict]]:
        """Arguments of the calls of one method."""
        return [call[2:] for call in self.calls if call[:2] == (cls, method)]

    @staticmethod
    def _there(package: dict, cls: str, method: str) -> bool:
        known = package["classes"].get(cls, {})
        return method in known.get("methods", {}) or method in known.get("properties", {})

    def _class(self, name: str, described: dict) -> type:
        if "members" in described:
            return enum.IntEnum(name, described["members"])
        body: dict[str, Any] = {"__module__": "tensorrt"}
        for method, signatures in described["methods"].items():
            if method != "__init__":
                body[method] = self._method(name, method, signatures)
        for prop, (kind, access) in described["properties"].items():
            body[prop] = self._property(name, prop, kind, access == "rw")
        for inner, there in described.get("nested", {}).items():
            body[inner] = self._class(inner, there)
            body |= {member.name: member for member in body[inner]}
        signatures = described["methods"].get("__init__")

        def init(this, *args, **named):
            if not hasattr(this, "_made_by_us"):
                if signatures is None:
                    raise TypeError(f"tensorrt.{name}: No constructor defined!")
                self._checked(this, name, "__init__", signatures, args, named)
                self.calls.append((name, "__init__", args, named))
                self.behaviours.get((name, "__init__"), lambda *_, **__: None)(this, *args, **named)

        return type(name, (), body | {"__init__": init})

    def new(self, name: str, **values: Any) -> Any:
        """An object of a class that only TensorRT makes."""
        cls = getattr(self, name)
        made = cls.__new__(cls)
        made.__dict__.update(values, _made_by_us=True)
        return made

    def _method(self, cls: str, method: str, signatures: list[str]) -> Behaviour:
        def call(this, *args, **named):
            returned = self._checked(this, cls, method, signatures, args, named)
            self.calls.append((cls, method, args, named))
            if (does := self.behaviours.get((cls, method))) is not None:
                return does(this, *args, **named)
            return {"None": None, "bool": True}.get(returned) if returned in ("None", "bool") else self.new(returned)

        return call

    def _property(self, cls: str, name: str, kind: str, writable: bool) -> property:
        def read(this):
            does = self.behaviours.get((cls, name))
            return does(this) if does else this.__dict__.get(f"={name}")

        def write(this, value):
            if fault := self._fault(kind, value):
                raise TypeError(f"{cls}.{name}: {fault}")
            self.calls.append((cls, name, (value,), {}))
            this.__dict__[f"={name}"] = value

        return property(read, write if writable else None)

    def _checked(self, this, cls: str, method: str, signatures: list[str], args: tuple, named: dict) -> str:
        """The type that is returned, of the first signature that takes these arguments."""
        faults = []
        for signature in signatures:
            parameters, returned = parsed(signature)
            fault = self._bound(parameters[1:], args, named)
            if fault is None:
                return returned
            faults.append(f"{signature}: {fault}")
        raise TypeError(f"{cls}.{method}(): incompatible function arguments: {'; '.join(faults)}")

    def _bound(self, parameters: list[tuple[str, str, bool]], args: tuple, named: dict) -> str | None:
        """What is wrong with arguments for parameters of (name, type, is there a default)."""
        if len(args) > len(parameters):
            return f"{len(args)} arguments, it takes {len(parameters)}"
        given = dict(zip((name for name, *_ in parameters), args, strict=False))
        if twice := given.keys() & named.keys():
            return f"{sorted(twice)} twice"
        given |= named
        if unknown := given.keys() - {name for name, *_ in parameters}:
            return f"it has no {sorted(unknown)}"
        if missing := [name for name, _, default in parameters if not default and name not in given]:
            return f"without {missing}"
        kinds = {name: kind for name, kind, _ in parameters}
        faults = (self._fault(kinds[name], value) for name, value in given.items())
        return next((fault for fault in faults if fault), None)

    def _fault(self, kind: str, value: Any) -> str | None:
        """What keeps a value from being of a type of a signature."""
        simple: dict[str, Any] = {
            "int": int, "typing.SupportsInt": int, "str": str, "bool": bool, "float": (int, float), "tuple": tuple,
            "list": list, "object": object,
            "buffer": (bytes, bytearray, memoryview), "typing_extensions.Buffer": (bytes, bytearray, memoryview),
        }  # fmt: skip
        if kind == "Dims":
            fine = isinstance(value, (tuple, list)) and all(type(size) is int for size in value)
        elif kind in simple:
            fine = isinstance(value, simple[kind])
        elif value is None and kind[0].isupper():  # pybind11 takes None for pointers
            fine = True
        else:
            cls: Any = self
            for part in kind.split("."):
                cls = getattr(cls, part)  # AttributeError: a type that trt_names.py leaves out
            fine = isinstance(value, cls)
        return None if fine else f"{value!r} is no {kind}"


def parsed(signature: str) -> tuple[list[tuple[str, str, bool]], str]:
    """("(self: A, b: int = 0) -> C") as ([("self", "A", False), ("b", "int", True)], "C")."""
    inside, _, returned = signature.rpartition(") -> ")
    parameters = []
    for part in split(inside.removeprefix("(")):
        name, _, kind = part.partition(":")
        kind, default, _ = kind.partition("=")
        parameters.append((name.strip(), kind.strip(), bool(default)))
    return parameters, returned.strip()


def split(text: str) -> Iterator[str]:
    """At commas outside of brackets."""
    depth, begin = 0, 0
    for place, character in enumerate(text):
        depth += (character in "[<(") - (character in "]>)")
        if character == "," and not depth:
            yield text[begin:place]
            begin = place + 1
    if re.search(r"\S", text[begin:]):
        yield text[begin:]
