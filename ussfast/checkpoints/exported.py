"""Exported models on disk: what export.json says of the graphs beside it."""

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from ussfast.audio.atomic import atomic_write
from ussfast.errors import CheckpointError, InputError
from ussfast.plain import Checked, Name, Range, Word, from_dict, read_json

FORMAT, VERSION = "ussfast-export", 1
MANIFEST, PROMPTS = "export.json", "prompts.json"
KEY = "ussfast"  # of what an ONNX file says of itself in its metadata
PRECISIONS = ("fp32", "bf16", "fp16", "int8")

Count = Annotated[int, Range(0, 1 << 40)]
Dimension = Annotated[str, Word(40)]
Precision = Literal["fp32", "bf16", "fp16", "int8"]


@dataclasses.dataclass(frozen=True)
class Port(Checked):
    """An input or output of a graph; shape: of numbers, and of names of what `GraphFile.dims` bounds."""

    name: Name
    shape: Annotated[tuple[int | str, ...], Range(0, 10)]
    dtype: Literal["float32", "int64", "bool"] = "float32"


@dataclasses.dataclass(frozen=True)
class GraphFile(Checked):
    """One graph.

    state: input and output of each tensor that is carried on from call to call; all zeros before the first one.
    dims: least and most of each named dimension.
    """

    file: Name
    sha256: str
    inputs: Annotated[tuple[Port, ...], Range(1, 1000)]
    outputs: Annotated[tuple[Port, ...], Range(1, 1000)]
    state: tuple[Annotated[tuple[Name, ...], Range(2, 2)], ...] = ()
    dims: dict = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, ends in self.dims.items():
            whole = isinstance(ends, list | tuple) and len(ends) == 2 and all(type(end) is int for end in ends)
            if not whole or not 1 <= ends[0] <= ends[1]:
                raise InputError(f"dims must be [least, most] by name, got {ends!r} for {name!r}")
        ports = {port.name for port in (*self.inputs, *self.outputs)}
        if odd := [name for pair in self.state for name in pair if name not in ports]:
            raise InputError(f"the state {odd[0]!r} is no input or output")


@dataclasses.dataclass(frozen=True)
class Exported(Checked):
    """What export.json says.

    kind: "onnx", or "aoti" for packages of AOTInductor.
    config: of the model, as in a model directory.
    latency_samples: of a graph that streams, from a sample of the input to the same one of the output.
    labels: of the model's sources or of what a detector knows; of models with prompts, their names.
    fingerprint: see `ModelInfo`: that of the model which was exported, so that its prompt banks fit.
    """

    format: str
    version: int
    ussfast: str
    kind: Literal["onnx", "aoti"]
    precision: Precision
    opset: Annotated[int, Range(0, 1000)]
    name: Name
    architecture: str
    parameters: Annotated[int, Range(0, 1e12)]
    config: dict
    sample_rate: Annotated[int, Range(1, 10_000_000)]
    hop: Annotated[int, Range(1, 1 << 20)] | None
    latency_samples: Annotated[int, Range(0, 1 << 24)] | None
    labels: tuple[str, ...]
    graphs: dict
    fingerprint: str = ""

    def graph(self, name: str) -> GraphFile:
        """CheckpointError if there is no graph of that name."""
        if name not in self.graphs:
            raise CheckpointError(f"this export has no graph {name!r}, only {sorted(self.graphs)}")
        return from_dict(GraphFile, self.graphs[name], f"graphs.{name}")


def is_exported(directory: str | os.PathLike[str]) -> bool:
    return os.path.isfile(Path(directory) / MANIFEST)


def read_exported(directory: str | os.PathLike[str]) -> Exported:
    """CheckpointError for what is no directory of an export, or that of another version."""
    directory = Path(directory)
    path = directory / MANIFEST
    if not is_exported(directory):
        raise CheckpointError(
            f"{directory}: no exported model ({MANIFEST} is missing): make one with 'python -m ussfast.export MODEL "
            f"--onnx -o {directory}'"
        )
    try:
        data = read_json(path)
        found = (data.get("format"), data.get("version")) if isinstance(data, dict) else None
        if found != (FORMAT, VERSION):
            raise InputError(f"this ussfast reads {FORMAT!r}, version {VERSION}, and not {found}")
        exported = from_dict(Exported, data, "the file")
        for name in exported.graphs:
            graph = exported.graph(name)
            if graph.file != os.path.basename(graph.file):
                raise InputError(f"graphs.{name}.file must be a file of the same folder")
    except InputError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return exported


def graph_path(directory: str | os.PathLike[str], graph: GraphFile) -> Path:
    """The file of a graph, which is the one that export.json means; CheckpointError if it is missing or another."""
    path = Path(directory) / graph.file
    if not os.path.isfile(path):
        raise CheckpointError(f"{path}: missing: export the model again")
    if file_hash(path) != graph.sha256.lower():
        raise CheckpointError(f"{path}: not the file that {MANIFEST} means: export the model again")
    return path


def file_hash(path: str | os.PathLike[str]) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_exported(directory: Path, exported: Exported) -> None:
    write_json(directory / MANIFEST, dataclasses.asdict(exported))


def write_json(path: Path, data: Any) -> None:
    """OutputError if it cannot be written; nothing is half-written."""
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    with atomic_write(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def prompts_of(directory: str | os.PathLike[str]) -> dict[str, list[float]]:
    """The vectors of the model's own prompts by name; empty where it has none."""
    path = Path(directory) / PROMPTS
    if not os.path.isfile(path):
        return {}
    try:
        data = read_json(path)
        vectors = {str(name): [float(v) for v in values] for name, values in data.items()}
    except (InputError, ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: not a table of vectors: {error}") from None
    if len({len(vector) for vector in vectors.values()}) > 1:
        raise CheckpointError(f"{path}: its vectors differ in length")
    return vectors
