"""What the list of operators restricts in words, as checks of nodes.

An operator with a restriction that has no check here counts as unsupported: `restriction` says so.
"""

from collections.abc import Callable
from typing import Any

Version = tuple[int, int]
# Names of the list for numbers of onnx.TensorProto.DataType.
TYPES = {
    1: "FP32", 2: "UINT8", 3: "INT8", 4: "UINT16", 5: "INT16", 6: "INT32", 7: "INT64", 8: "STRING", 9: "BOOL",
    10: "FP16", 11: "DOUBLE", 12: "UINT32", 13: "UINT64", 14: "COMPLEX64", 15: "COMPLEX128", 16: "BF16", 17: "FP8",
    18: "FP8", 19: "FP8", 20: "FP8", 21: "UINT4", 22: "INT4", 23: "FP4",
}  # fmt: skip
MODES = ("half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn", "asymmetric", "align_corners")
NEAREST = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
MOST_K = 3840


class Graph:
    """A graph's constants, types and sizes by name; those of the graph around it too."""

    def __init__(self, proto: Any, outer: "Graph | None" = None, opset: int = 20):
        self.proto, self.opset = proto, opset
        self.types: dict[str, str] = dict(outer.types) if outer else {}
        self.constants: dict[str, Any] = dict(outer.constants) if outer else {}
        self.ranks: dict[str, int] = dict(outer.ranks) if outer else {}
        for value in (*proto.input, *proto.output, *proto.value_info):
            kind = value.type.tensor_type
            if kind.elem_type:
                self.types[value.name] = TYPES.get(kind.elem_type, f"number {kind.elem_type}")
            if kind.HasField("shape"):
                self.ranks[value.name] = len(kind.shape.dim)
        for tensor in proto.initializer:
            self._constant(tensor.name, tensor)
        for node in proto.node:
            if node.op_type == "Constant":
                tensor = attribute(node, "value")
                self.constants[node.output[0]] = tensor
                if tensor is not None and hasattr(tensor, "data_type"):
                    self._constant(node.output[0], tensor)

    def _constant(self, name: str, tensor: Any) -> None:
        self.constants[name] = tensor
        self.types[name] = TYPES.get(tensor.data_type, f"number {tensor.data_type}")
        self.ranks[name] = len(tensor.dims)

    def array(self, name: str) -> Any:
        """The numbers of a constant; None where it is none, or lies in another file."""
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        if tensor is None or not hasattr(tensor, "data_type") or tensor.external_data:
            return None
        return numpy_helper.to_array(tensor)


def attribute(node: Any, name: str, default: Any = None) -> Any:
    """The value of an attribute of a node; bytes as text."""
    from onnx import helper

    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            return value.decode() if isinstance(value, bytes) else value
    return default


def given(node: Any, place: int) -> str:
    """The name of an input; "" where it is left out."""
    return node.input[place] if place < len(node.input) else ""


def restriction(node: Any, graph: Graph, words: str | None, version: Version) -> str | None:
    """What of a node a restriction excludes, if anything. words: the restriction as the list has it, or None."""
    check = CHECKS.get(node.op_type)
    if check is not None:
        return check(node, graph, version)
    return f"restriction that is not checked here: {words}" if words else None


def _constant_input(place: int, name: str) -> Callable[..., str | None]:
    def check(node: Any, graph: Graph, version: Version) -> str | None:
        there = given(node, place)
        return f"{name} is no constant" if there and there not in graph.constants else None

    return check


def _axes(node: Any, graph: Graph, version: Version) -> str | None:
    if node.op_type == "Squeeze" and not given(node, 1) and attribute(node, "axes") is None:
        return "without axes: since TensorRT 11.5" if version < (11, 5) else None
    return _constant_input(1, "axes")(node, graph, version)


def _zero_point(node: Any, graph: Graph, version: Version) -> str | None:
    there = given(node, 2)
    if not there:
        return None
    zeros = graph.array(there)
    if zeros is None:
        return "the zero point is not known"
    return "a zero point other than 0" if zeros.astype("float32").any() else None


def _pool(node: Any, graph: Graph, version: Version) -> str | None:
    if any(size != 1 for size in attribute(node, "dilations", [])):
        return "dilations"
    if node.op_type == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return "the output Indices"
    if node.op_type != "LpPool" and len(attribute(node, "kernel_shape", [])) not in (2, 3):
        return "pooling that is neither 2D nor 3D"
    return None


def _resize(node: Any, graph: Graph, version: Version) -> str | None:
    asked = {
        "coordinate_transformation_mode": (MODES, "half_pixel"),
        "mode": (("nearest", "linear"), "nearest"),
        "nearest_mode": (NEAREST, "round_prefer_floor"),
        "keep_aspect_ratio_policy": (("stretch",), "stretch"),
        "antialias": ((0,), 0),
    }
    for name, (known, usual) in asked.items():
        if (value := attribute(node, name, usual)) not in known:
            return f"{name} {value}"
    axes, rank = attribute(node, "axes"), graph.ranks.get(node.input[0])
    if given(node, 2) and axes is not None and list(axes) != list(range(rank or 0)):
        return "scales for some axes"
    return None


def _recurrent(node: Any, graph: Graph, version: Version) -> str | None:
    if attribute(node, "direction", "forward") == "bidirectional":
        names = attribute(node, "activations", [])
        if names[: len(names) // 2] != names[len(names) // 2 :]:
            return "other activations backwards"
    wrong = [name for name in ("input_forget", "layout") if attribute(node, name, 0)]
    return wrong[0] if wrong and node.op_type == "LSTM" else None


def _attention(node: Any, graph: Graph, version: Version) -> str | None:
    if any(given(node, place) for place in range(4, len(node.input))):
        return "past keys or lengths"
    if len([name for name in node.output if name]) > 1:
        return "outputs beside the first"
    if any(attribute(node, name) for name in ("qk_matmul_output_mode", "softcap")):
        return "qk_matmul_output_mode or softcap"
    flat = [name for name in node.input[:4] if name and graph.ranks.get(name) != 4]
    return f"{flat[0]} is not known to be 4D" if flat else None


def _rank_four(node: Any, graph: Graph, version: Version) -> str | None:
    return None if graph.ranks.get(node.input[0]) == 4 else f"{node.input[0]} is not known to be 4D"


def _top(node: Any, graph: Graph, version: Version) -> str | None:
    if not attribute(node, "sorted", 1):
        return "sorted 0"
    size = graph.array(node.input[1])
    return f"k that is not known to be below {MOST_K}" if size is None or int(size.max()) >= MOST_K else None


def _constant(node: Any, graph: Graph, version: Version) -> str | None:
    wrong = {"sparse_value", "value_string", "value_strings"} & {one.name for one in node.attribute}
    return wrong.pop() if wrong else None


def _sum_so_far(node: Any, graph: Graph, version: Version) -> str | None:
    return _constant_input(1, "axis")(node, graph, version)


def _outputs(node: Any, graph: Graph, version: Version) -> str | None:
    return "outputs beside the first" if len([name for name in node.output if name]) > 1 else None


def _scatter(node: Any, graph: Graph, version: Version) -> str | None:
    reduction = attribute(node, "reduction", "none")
    return None if reduction == "none" else f"reduction {reduction}"


def _dropout(node: Any, graph: Graph, version: Version) -> str | None:
    there = given(node, 2)
    training = graph.array(there) if there else None
    return "training_mode" if there and (training is None or training.any()) else None


def _transform(node: Any, graph: Graph, version: Version) -> str | None:
    names = {1: "frame_step", 2: "window"}
    return next((f for p, n in names.items() if (f := _constant_input(p, n)(node, graph, version))), None)


def _einsum(node: Any, graph: Graph, version: Version) -> str | None:
    equation = attribute(node, "equation", "").replace(" ", "")
    terms = equation.partition("->")[0].split(",")
    special = "." in equation or any(len(set(term)) < len(term) for term in terms)
    return "ellipsis or diagonal: since TensorRT 10.12" if special and version < (10, 12) else None


def _power(node: Any, graph: Graph, version: Version) -> str | None:
    kinds = [graph.types.get(name, "") for name in node.input]
    if kinds[0].startswith("INT") and version < (10, 12):
        return "powers of whole numbers: since TensorRT 10.12"
    return "whole exponents: since TensorRT 10.8" if kinds[1].startswith("INT") and version < (10, 8) else None


def _group_norm(node: Any, graph: Graph, version: Version) -> str | None:
    return "opset 21: since TensorRT 10.9" if graph.opset >= 21 and version < (10, 9) else None


def _rotary(node: Any, graph: Graph, version: Version) -> str | None:
    there = given(node, 3)
    return "position_ids that are not INT64" if there and graph.types.get(there) != "INT64" else None


CHECKS: dict[str, Callable[[Any, Graph, Version], str | None]] = {
    "Attention": _attention, "AveragePool": _pool, "Constant": _constant, "CumSum": _sum_so_far,
    "DequantizeLinear": _zero_point, "Dropout": _dropout, "Einsum": _einsum, "GRU": _recurrent,
    "GridSample": _rank_four, "GroupNormalization": _group_norm, "LSTM": _recurrent, "LayerNormalization": _outputs,
    "LpPool": _pool, "MaxPool": _pool, "OneHot": _constant_input(1, "depth"), "Pow": _power,
    "QuantizeLinear": _zero_point, "RNN": _recurrent, "Resize": _resize, "RotaryEmbedding": _rotary, "STFT": _transform,
    "ScatterND": _scatter, "Squeeze": _axes, "TopK": _top, "Unsqueeze": _axes,
    **{f"Reduce{kind}": _axes for kind in ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean")},
    **{f"Reduce{kind}": _axes for kind in ("Min", "Prod", "Sum", "SumSquare")},
}  # fmt: skip
