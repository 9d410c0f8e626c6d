"""Whether TensorRT's parser takes a graph: its operators, their types and attributes against the parser's own list.

The list, with source and version, is tensorrt_operators.json. What it says nothing about is not assumed to work.

    python -m ussfast.export.supported DIR_OR_ONNX_FILE ... [--json REPORT] [--tensorrt 10.5]
"""

import argparse
import functools
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ussfast.audio.atomic import atomic_write
from ussfast.errors import CheckpointError, DeviceError, InputError, UssfastError
from ussfast.export.supported_rules import Graph, restriction

if TYPE_CHECKING:
    import onnx

OLDEST = "10.5"
DOMAINS = ("", "ai.onnx")
# The type that the list is about is that of the first input, but for these: the place of another one.
TYPED_BY = {"Where": 1, "OneHot": 2}
TYPED_BY_OUTPUT = ("Constant", "ConstantOfShape", "RandomNormal", "RandomUniform")
BOTH_TYPES = ("Cast", "CastLike")
BODIES = ("If", "Loop", "Scan")
MOST_RANK = 8  # MAX_DIMS of its class Dims
UNKNOWN = "a type that is not known"


@dataclass(frozen=True)
class Unsupported:
    """A node that TensorRT does not take. node: its name, or what it makes."""

    node: str
    op: str
    reason: str


@functools.cache
def _list() -> dict[str, Any]:
    return json.loads(resources.files("ussfast.export").joinpath("tensorrt_operators.json").read_bytes())


def unsupported(model: "onnx.ModelProto", tensorrt: str = OLDEST) -> list[Unsupported]:
    """Nodes that keep TensorRT from taking a model, in their order; an empty list if there are none.

    model: an onnx.ModelProto, with or without external weights. tensorrt: the oldest version that is to take it.
    """
    import onnx

    listed, version = _list(), _version(tensorrt)
    opset = next((entry.version for entry in model.opset_import if entry.domain in DOMAINS), 0)
    least, most = listed["opsets"]
    found = []
    if not least <= opset <= most:
        found.append(Unsupported("", "", f"opset {opset}: TensorRT {listed['tensorrt']} takes {least} to {most}"))
    try:
        typed = onnx.shape_inference.infer_shapes(model)
    except onnx.shape_inference.InferenceError as error:
        found.append(Unsupported("", "", f"no valid model: {' '.join(str(error).split())}"))
        typed = model
    for graph in _graphs(Graph(typed.graph, opset=opset)):
        for value in (*graph.proto.input, *graph.proto.output):
            if (kind := graph.types.get(value.name)) and kind not in listed["types"]:
                found.append(Unsupported(value.name, "", f"type {kind}"))
        for node in graph.proto.node:
            if reason := _reason(node, graph, listed, version):
                found.append(Unsupported(node.name or ", ".join(node.output), _name(node), reason))
    # Behind a node that nobody knows no type is known: that is no further fault.
    plain = [fault for fault in found if not fault.reason.startswith(UNKNOWN)]
    return plain or found


def _reason(node: Any, graph: Graph, listed: dict[str, Any], version: tuple[int, int]) -> str | None:
    if node.domain not in DOMAINS:
        return f"domain {node.domain}: only operators of ONNX itself"
    op = node.op_type
    if op not in listed["operators"]:
        known = op in listed["unsupported"]
        return "listed as unsupported" if known else f"not on the list of TensorRT {listed['tensorrt']}"
    if op in listed["since"] and version < _version(listed["since"][op]):
        return f"since TensorRT {listed['since'][op]}"
    if deep := [name for name in node.output if graph.ranks.get(name, 0) > MOST_RANK]:
        return f"{deep[0]} has {graph.ranks[deep[0]]} dimensions, a tensor of TensorRT {MOST_RANK} at most"
    if op not in BODIES:
        for kind in _kinds(node, graph):
            if kind not in listed["operators"][op]:
                return f"type {kind}, it takes {', '.join(listed['operators'][op])}" if kind else UNKNOWN
    return restriction(node, graph, listed["restrictions"].get(op), version)


def _kinds(node: Any, graph: Graph) -> list[str | None]:
    """The types that a line of the list speaks of."""
    op = node.op_type
    if op in TYPED_BY_OUTPUT:
        return [graph.types.get(node.output[0])]
    kinds = [graph.types.get(node.input[TYPED_BY.get(op, 0)])] if node.input else []
    return [*kinds, graph.types.get(node.output[0])] if op in BOTH_TYPES else kinds


def _graphs(graph: Graph) -> Iterator[Graph]:
    """The graph, and those inside of its nodes."""
    yield graph
    for node in graph.proto.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _graphs(Graph(attribute.g, outer=graph, opset=graph.opset))


def _name(node: Any) -> str:
    return node.op_type if node.domain in DOMAINS else f"{node.domain}::{node.op_type}"


def _version(text: str) -> tuple[int, int]:
    try:
        major, minor = map(int, text.split(".")[:2])
    except ValueError:
        raise InputError(f"tensorrt must be a version such as 10.5, got {text!r}") from None
    return major, minor


def report(model: "onnx.ModelProto", tensorrt: str = OLDEST) -> dict[str, Any]:
    """What a model consists of, and what of it TensorRT does not take, as plain values."""
    listed = _list()
    graphs = _graphs(Graph(model.graph, opset=0))
    operators = Counter(_name(node) for graph in graphs for node in graph.proto.node)
    return {
        "list": {"source": listed["source"], "tensorrt": listed["tensorrt"]},
        "oldest": tensorrt,
        "opset": next((entry.version for entry in model.opset_import if entry.domain in DOMAINS), 0),
        "operators": dict(sorted(operators.items())),
        "unsupported": [asdict(one) for one in unsupported(model, tensorrt)],
    }


def files_of(places: Sequence[str | Path]) -> list[Path]:
    """ONNX files: those that are given, and those in given directories; CheckpointError where there are none."""
    found: list[Path] = []
    for place in map(Path, places):
        inside = sorted(place.glob("*.onnx")) if place.is_dir() else [place] if place.is_file() else []
        if not inside:
            raise CheckpointError(f"{place}: no ONNX file, and no directory with any")
        found += inside
    return found


def reports(places: Sequence[str | Path], tensorrt: str = OLDEST) -> dict[str, dict[str, Any]]:
    """`report` of each ONNX file, by path.

    Raises:
        CheckpointError: no such files, or they are not readable as ONNX.
        DeviceError: there is no package onnx.
    """
    try:
        import onnx
    except ImportError:
        raise DeviceError("reading ONNX files needs the package onnx: pip install 'ussfast[export]'") from None
    found = {}
    for path in files_of(places):
        try:
            model = onnx.load(path, load_external_data=False)
        except Exception as error:  # protobuf's own, of a module that depends on how it was built
            raise CheckpointError(f"{path}: not readable as ONNX: {error}") from None
        found[str(path)] = report(model, tensorrt)
    return found


def table(found: dict[str, dict[str, Any]]) -> str:
    """A line per file, and one per node that is not supported."""
    lines = []
    for path, one in found.items():
        faults, kinds = one["unsupported"], one["operators"]
        verdict = f"{len(faults)} NOT SUPPORTED" if faults else "all supported"
        lines.append(f"{path}: {sum(kinds.values())} nodes, {len(kinds)} operators, opset {one['opset']}: {verdict}")
        lines += [f"  {fault['op'] or 'graph'} {fault['node']}: {fault['reason']}" for fault in faults]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ussfast.export.supported", description="Whether TensorRT's parser takes ONNX files."
    )
    parser.add_argument("places", nargs="+", metavar="PLACE", help="ONNX files, or directories of an export")
    parser.add_argument("--json", type=Path, metavar="REPORT", help="writes the report there too")
    parser.add_argument("--tensorrt", default=OLDEST, help=f"oldest version that is to take them, {OLDEST} by default")
    given = parser.parse_args(arguments)
    try:
        found = reports(given.places, given.tensorrt)
        if given.json:
            with atomic_write(given.json) as temporary:
                temporary.write_text(json.dumps(found, indent=1) + "\n")
    except UssfastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(table(found))
    return int(any(one["unsupported"] for one in found.values()))


if __name__ == "__main__":
    sys.exit(main())
