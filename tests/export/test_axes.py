"""Squeeze nodes get the axes that they leave out, and compute what they did."""

import numpy as np
import onnxruntime
from onnx import TensorProto, helper

from ussfast.export.axes import with_axes
from ussfast.export.supported import unsupported


def model():
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", 3])
    size = helper.make_tensor_value_info("size", TensorProto.INT64, [])
    rest = helper.make_tensor_value_info("rest", TensorProto.FLOAT, None)
    nodes = [
        helper.make_node("Shape", ["x"], ["one"], start=0, end=1),
        helper.make_node("Squeeze", ["one"], ["size"]),
        helper.make_node("Squeeze", ["x"], ["rest"]),
    ]
    graph = helper.make_graph(nodes, "g", [x], [size, rest])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def test_a_size_is_squeezed_by_its_axis():
    before, after = model(), with_axes(model())
    assert [len(node.input) for node in after.graph.node if node.op_type == "Squeeze"] == [2, 1]
    assert [fault.node for fault in unsupported(before)] == ["size", "rest"]
    assert [fault.node for fault in unsupported(after)] == ["rest"]  # nobody knows its axes
    feed = {"x": np.ones((5, 3), np.float32)}
    for proto in (before, after):
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        size, rest = session.run(None, feed)
        assert size == 5 and size.shape == () and rest.shape == (5, 3)
