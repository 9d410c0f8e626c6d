"""Axes for Squeeze nodes that leave them out, which TensorRT takes since 11.5 only."""

from typing import Any

AXES = "axes_of_a_size"


def with_axes(proto: Any) -> Any:
    """Changes an onnx.ModelProto, and returns it: what squeezes a single size, made by Shape, says so by its axis."""
    from numpy import array, int64
    from onnx import numpy_helper

    graph, named = proto.graph, False
    made_by = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.op_type != "Squeeze" or len(node.input) > 1 or _end(made_by.get(node.input[0])) is None:
            continue
        node.input.append(AXES)
        named = True
    if named:
        graph.initializer.append(numpy_helper.from_array(array([0], int64), AXES))
    return proto


def _end(node: Any) -> int | None:
    """The place of the one size that a node gives; None if it gives others."""
    if node is None or node.op_type != "Shape":
        return None
    given = {attribute.name: attribute.i for attribute in node.attribute}
    start, end = given.get("start", 0), given.get("end")
    return end if end is not None and end == start + 1 else None
