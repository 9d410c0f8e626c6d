"""Products of bfloat16 or float16 for runtimes that have none: the same rounding around products of float32."""

from typing import Any

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


def emulated(proto: Any) -> Any:
    """An onnx.ModelProto, changed: what its narrow products take and give is rounded as before, the products
    themselves are float32."""
    from onnx import TensorProto, helper

    narrow = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    kinds = {t.name: t.data_type for t in proto.graph.initializer if t.data_type in narrow}
    for node in proto.graph.node:
        if node.op_type == "Cast" and (kind := next(a.i for a in node.attribute if a.name == "to")) in narrow:
            kinds[node.output[0]] = kind
    nodes, wide = [], set()
    for node in proto.graph.node:
        kind = next((kinds[name] for name in node.input if name in kinds), None)
        if node.op_type not in PRODUCTS or kind is None:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if not name:
                continue
            if name not in wide:
                wide.add(name)
                nodes.append(helper.make_node("Cast", [name], [f"{name}_float"], to=TensorProto.FLOAT))
            node.input[i] = f"{name}_float"
        out = node.output[0]
        node.output[0] = f"{out}_float"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [out], to=kind)]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return proto
