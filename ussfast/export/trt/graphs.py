"""The graphs of an export directory as an engine is built for them: shapes of their inputs, least, typical and most."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from ussfast.engine.backends.trt_engines import external_weights
from ussfast.errors import CheckpointError, InputError
from ussfast.plain import Checked, Name, Range, check_known, from_dict, read_json
from ussfast.values import whole

Count = Annotated[int, Range(1, 1 << 40)]
# What is typical where nobody says: windows of this length, as they are cut of long audio, this many prompts at a time.
TYPICAL_SECONDS = 6.0
TYPICAL_SOURCES = 3


@dataclass(frozen=True)
class Shapes:
    """Of one input: the least, the one an engine is made fastest for, and the most."""

    least: tuple[int, ...]
    typical: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def fixed(self) -> bool:
        return self.least == self.most


@dataclass(frozen=True)
class Exported:
    """An export directory of ONNX files; dims: of each graph, least and most of its named sizes."""

    directory: Path
    name: str
    precision: str
    sample_rate: int
    hop: int
    latency: int | None
    labels: tuple[str, ...]
    inputs: dict[str, dict[str, tuple[int | str, ...]]]
    outputs: dict[str, dict[str, tuple[int | str, ...]]]
    dims: dict[str, dict[str, tuple[int, int]]]
    state: dict[str, tuple[tuple[str, str], ...]]

    def onnx(self, graph: str) -> Path:
        return self.directory / f"{graph}.onnx"

    def weights(self, graph: str) -> list[Path]:
        """External weights, beside the ONNX file."""
        return external_weights(self.onnx(graph))

    def typical(self, graph: str, given: Mapping[str, int] | None = None) -> dict[str, int]:
        """The size of each name that an engine is made fastest for.

        Streams come one by one; windows of long audio in batches, as many as fit.
        """
        sizes: dict[str, int] = {}
        for name, (least, most) in self.dims[graph].items():
            frames = max(1, round(TYPICAL_SECONDS * self.sample_rate / self.hop))
            usual = {
                "batch": 1 if self.state[graph] else most,
                "sources": TYPICAL_SOURCES,
                "frames": frames,
                "samples": frames * self.hop,
            }.get(name, most)
            sizes[name] = min(max(usual, least), most)
            if given and name in given:
                sizes[name] = whole(given[name], f"typical {name}", least, most)
        return sizes

    def shapes(self, graph: str, given: Mapping[str, int] | None = None) -> dict[str, Shapes]:
        """Of every input of a graph, by name."""
        dims = self.dims[graph]
        least = {name: low for name, (low, _) in dims.items()}
        most = {name: high for name, (_, high) in dims.items()}
        sizes = (least, self.typical(graph, given), most)
        return {
            name: Shapes(*(self.filled(graph, name, of) for of in sizes)) for name in self.inputs[graph]
        }  # fmt: skip

    def filled(self, graph: str, name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape of an input with numbers for names."""
        shape = self.inputs[graph][name]
        if unknown := [size for size in shape if isinstance(size, str) and size not in sizes]:
            raise CheckpointError(f"{self.directory / 'export.json'}: {graph}: {name} has {unknown}, which dims lack")
        return tuple(sizes[size] if isinstance(size, str) else size for size in shape)

    def chosen(self, graphs: Sequence[str] | None) -> list[str]:
        """The graphs that are asked for, all by default; InputError for those that there are not."""
        if unknown := set(graphs or ()) - self.inputs.keys():
            raise InputError(f"{self.directory} has no graph {', '.join(sorted(unknown))}: {', '.join(self.inputs)}")
        return [name for name in self.inputs if graphs is None or name in graphs]


@dataclass(frozen=True)
class _Manifest(Checked):
    format: Literal["ussfast-export"]
    version: Literal[1]
    kind: Name
    name: Name
    precision: Name
    sample_rate: Count
    hop: Count
    graphs: dict
    latency_samples: Annotated[int, Range(0, 1 << 40)] | None = None
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True)
class _Tensor(Checked):
    name: Name
    shape: list
    dtype: Name


def exported(directory: str | os.PathLike[str]) -> Exported:
    """What stands in export.json, as far as engines need it.

    Raises:
        CheckpointError: no such directory or file, one of other software, or graphs that are not ONNX files.
    """
    folder = Path(directory)
    path = folder / "export.json"
    if not path.is_file():
        raise CheckpointError(f"{folder}: no export.json; make one with python -m ussfast.export MODEL --onnx -o DIR")
    try:
        data = read_json(path)
        check_known(_Manifest, data, path.name)
        listed = _Manifest.__dataclass_fields__
        manifest = from_dict(_Manifest, {name: data[name] for name in listed if name in data}, path.name)
        if manifest.kind != "onnx":
            raise InputError(f"engines are built of ONNX files, this is an export of kind {manifest.kind!r}")
        inputs, outputs, dims, state = {}, {}, {}, {}
        for graph, about in manifest.graphs.items():
            where = f"graphs.{graph}"
            inputs[graph] = {tensor.name: tuple(tensor.shape) for tensor in _tensors(about["inputs"], where)}
            outputs[graph] = {tensor.name: tuple(tensor.shape) for tensor in _tensors(about["outputs"], where)}
            dims[graph] = {name: _limits(pair, f"{where}.dims.{name}") for name, pair in about.get("dims", {}).items()}
            state[graph] = tuple((str(one), str(other)) for one, other in about.get("state") or ())
            if not (folder / f"{graph}.onnx").is_file():
                raise InputError(f"the file of {graph}, {graph}.onnx, is missing")
    except (KeyError, TypeError, AttributeError, ValueError) as error:  # InputError is a ValueError
        why = error if isinstance(error, InputError) else "not as this version of ussfast writes it"
        raise CheckpointError(f"{path}: {why}") from None
    return Exported(
        folder,
        manifest.name,
        manifest.precision,
        manifest.sample_rate,
        manifest.hop,
        manifest.latency_samples,
        manifest.labels or (),
        inputs,
        outputs,
        dims,
        state,
    )


def _tensors(listed: list, where: str) -> list[_Tensor]:
    return [from_dict(_Tensor, one, f"{where}: tensor") for one in listed]


def _limits(pair: list, where: str) -> tuple[int, int]:
    low, high = (whole(size, where, 1, 1 << 40) for size in pair)
    if low > high:
        raise InputError(f"{where}: the least is {low}, the most {high}")
    return low, high
