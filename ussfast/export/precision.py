"""Graphs whose weights and products are of lower precision, by casts inside: strongly typed, without flags.

Products of what the network computes with what it computes (attention scores, softmax times values), norms and
activations stay float32; so do the transforms, and the last products, whose rounding would be heard.
"""

from typing import Any

import numpy as np

from ussfast.errors import InputError
from ussfast.export.graphs import Graph

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
IN_BFLOAT16 = ("MatMul", "Gemm")  # convolutions of it came with a later opset
TRANSFORMS = ("into", "back", "matrix")  # what the matrices of DFTs are called
FIRST = ("encoder",)  # all else is made of what these give, of which bfloat16 would keep three digits


def lowered(proto: Any, graph: Graph, precision: str) -> Any:
    """An onnx.ModelProto in another precision; what goes in and out stays float32.

    Args:
        precision: fp32, fp16, bf16, or int8, which is that of the weights alone: with one scale for all activations of
            a product, as graphs for int8 hardware have it, the default kept 13 to 32 dB.
    Raises:
        InputError: a weight that does not fit into fp16.
    """
    if precision == "fp32" or graph.name == "prompts":
        return proto  # prompts are computed once: nothing is gained
    return _quantized(proto) if precision == "int8" else _cast(proto, precision)


def _weighted(proto: Any, products: tuple[str, ...] = PRODUCTS, kept: tuple[str, ...] = TRANSFORMS) -> set[str]:
    """Nodes of products with a weight; kept: parts of names of weights that stay as they are."""
    matrices = {t.name for t in proto.graph.initializer if len(t.dims) > 1}
    held = {name for name in matrices if any(part in kept for part in name.split("."))}
    nodes = [
        node
        for node in proto.graph.node
        if node.op_type in products and matrices & set(node.input) and not held & set(node.input)
    ]
    return {node.name for node in nodes} - _last(proto, {node.name for node in nodes})


def _last(proto: Any, products: set[str]) -> set[str]:
    """Those products that no other one is behind: what they are rounded to would be what comes out."""
    # Names of values that some product depends on, from the end of the graph to its beginning.
    needed: set[str] = set()
    last: set[str] = set()
    for node in reversed(proto.graph.node):
        used = bool(needed & set(node.output))
        if node.name in products and not used:
            last.add(node.name)
        if used or node.name in products:
            needed |= set(node.input)
    return last


def _cast(proto: Any, precision: str) -> Any:
    """Weights in the precision, what they are multiplied with cast to it, the product cast back."""
    from onnx import TensorProto, helper, numpy_helper

    kind = TensorProto.FLOAT16 if precision == "fp16" else TensorProto.BFLOAT16
    dtype = np.float16 if precision == "fp16" else _bfloat16()
    tensors = {t.name: t for t in proto.graph.initializer}
    products = PRODUCTS if precision == "fp16" else IN_BFLOAT16
    named = TRANSFORMS if precision == "fp16" else (*TRANSFORMS, *FIRST)
    weighted, nodes, made = _weighted(proto, products, named), [], set()
    casts: dict[str, str] = {}
    for node in proto.graph.node:
        if node.name not in weighted:
            nodes.append(node)
            continue
        for i, name in enumerate(node.input):
            if not name:
                continue
            narrow = f"{name}_{precision}"
            if name in tensors:
                if narrow not in made:
                    values = numpy_helper.to_array(tensors[name])
                    if precision == "fp16" and np.abs(values).max(initial=0) > np.finfo(np.float16).max:
                        raise InputError(f"the weight {name} does not fit into fp16: use bf16")
                    made.add(narrow)
                    proto.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), narrow))
            elif name not in casts:
                casts[name] = narrow
                nodes.append(helper.make_node("Cast", [name], [narrow], f"{name}_cast", to=kind))
            node.input[i] = narrow
        out = node.output[0]
        node.output[0] = f"{out}_{precision}"
        nodes += [node, helper.make_node("Cast", [node.output[0]], [out], f"{out}_widened", to=TensorProto.FLOAT)]
    return _with_nodes(proto, nodes)


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16


def _quantized(proto: Any) -> Any:
    """Weights as int8, one scale for each output channel, symmetric, with DequantizeLinear behind them."""
    from onnx import helper, numpy_helper

    tensors = {t.name: t for t in proto.graph.initializer}
    weighted, nodes, made = _weighted(proto), [], set()
    for node in proto.graph.node:
        if node.name in weighted:
            for i, name in enumerate(node.input):
                if name not in tensors or len(tensors[name].dims) < 2:
                    continue
                axis = _output_axis(node, len(tensors[name].dims))
                wide = f"{name}_int8_{axis}"
                node.input[i] = wide
                if wide in made:
                    continue
                made.add(wide)
                values, scale = _rounded(numpy_helper.to_array(tensors[name]), axis)
                zero = np.zeros(scale.shape, np.int8)
                kept = {f"{wide}_values": values, f"{wide}_scale": scale, f"{wide}_zero": zero}
                proto.graph.initializer.extend(numpy_helper.from_array(v, key) for key, v in kept.items())
                nodes.append(helper.make_node("DequantizeLinear", list(kept), [wide], wide, axis=axis))
        nodes.append(node)
    return _with_nodes(proto, nodes)


def _output_axis(node: Any, dims: int) -> int:
    """Of a product's weight, the axis along which there is a channel for each of its outputs."""
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1
    turned = any(a.name == "transB" and a.i for a in node.attribute)
    return dims - 2 if turned else dims - 1


def _rounded(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 values and the scales of their channels; a channel of zeros has the scale 1."""
    others = tuple(i for i in range(values.ndim) if i != axis)
    scale = np.abs(values).max(others) / 127
    scale = np.where(scale > 0, scale, 1).astype(np.float32)
    shape = [-1 if i == axis else 1 for i in range(values.ndim)]
    return np.rint(values / scale.reshape(shape)).astype(np.int8), scale


def _with_nodes(proto: Any, nodes: list[Any]) -> Any:
    """The same with other nodes, and without weights that none of them takes."""
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto
