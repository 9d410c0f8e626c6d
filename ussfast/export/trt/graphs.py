"""The graphs of an export directory as an engine is built for them: shapes of their inputs, least, typical and most."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ussfast.checkpoints.exported import Exported, GraphFile, graph_path, read_exported
from ussfast.engine.backends.trt_engines import external_weights
from ussfast.errors import CheckpointError, InputError
from ussfast.values import whole

# What is typical where nobody says: windows of this length, as they are cut of long audio, this many prompts at a time.
TYPICAL_SECONDS = 6.0
TYPICAL_SOURCES = 3
Shape = tuple[int | str, ...]


@dataclass(frozen=True)
class Shapes:
    """Of one input: the least, the one an engine is made fastest for, and the most."""

    least: tuple[int, ...]
    typical: tuple[int, ...]
    most: tuple[int, ...]


@dataclass(frozen=True)
class Graphs:
    """An export directory of ONNX files; each table is by the names of graphs.

    files: the ONNX files. inputs, outputs: shapes by name. dims: least and most of named sizes. state: see `GraphFile`.
    """

    directory: Path
    about: Exported
    files: dict[str, Path]
    inputs: dict[str, dict[str, Shape]]
    outputs: dict[str, dict[str, Shape]]
    dims: dict[str, dict[str, tuple[int, int]]]
    state: dict[str, tuple[tuple[str, str], ...]]

    def weights(self, graph: str) -> list[Path]:
        """External weights, beside the ONNX file."""
        return external_weights(self.files[graph])

    def typical(self, graph: str, given: Mapping[str, int] | None = None) -> dict[str, int]:
        """The size of each name that an engine is made fastest for.

        Streams come one by one; windows of long audio in batches, as many as fit.
        """
        sizes: dict[str, int] = {}
        for name, (least, most) in self.dims[graph].items():
            hop = self.about.hop or 1
            frames = max(1, round(TYPICAL_SECONDS * self.about.sample_rate / hop))
            usual = {
                "batch": 1 if self.state[graph] else most,
                "sources": TYPICAL_SOURCES,
                "frames": frames,
                "samples": frames * hop,
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
        return {name: Shapes(*(self.filled(graph, name, of) for of in sizes)) for name in self.inputs[graph]}

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


def _open_sizes(graph: GraphFile) -> dict[str, tuple[int, int]]:
    """Of inputs; those that only outputs have follow from them."""
    used = {size for port in graph.inputs for size in port.shape}
    return {name: (ends[0], ends[1]) for name, ends in graph.dims.items() if name in used}


def graphs_in(directory: str | os.PathLike[str]) -> Graphs:
    """The graphs of an export of ONNX files.

    Raises:
        CheckpointError: no export, one of another kind, or one whose files are missing or others.
    """
    folder, about = Path(directory), read_exported(directory)
    if about.kind != "onnx":
        raise CheckpointError(f"{folder}: engines are built of ONNX files, this is an export of kind {about.kind!r}")
    known = {name: about.graph(name) for name in about.graphs}
    return Graphs(
        folder,
        about,
        files={name: graph_path(folder, graph) for name, graph in known.items()},
        inputs={name: {port.name: port.shape for port in graph.inputs} for name, graph in known.items()},
        outputs={name: {port.name: port.shape for port in graph.outputs} for name, graph in known.items()},
        dims={name: _open_sizes(graph) for name, graph in known.items()},
        state={name: tuple((before, after) for before, after in graph.state) for name, graph in known.items()},
    )
