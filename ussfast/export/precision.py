"""Graphs whose weights and products are of lower precision, by casts inside: strongly typed, without flags.

Products of what the network computes with what it computes (attention scores, softmax times values), norms and
activations stay float32; so do the transforms, and the last products, whose rounding would be heard.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from ussfast.errors import InputError
from ussfast.export.graphs import Graph

PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")
IN_BFLOAT16 = ("MatMul", "Gemm")  # convolutions of it came with a later opset
TRANSFORMS = ("into", "back", "matrix")  # what the matrices of DFTs are called
FIRST = ("encoder",)  # all else is made of what these give, of which bfloat16 would keep three digits

Batches = Iterable[Mapping[str, Tensor]]


def lowered(proto: Any, graph: Graph, precision: str, calibration: Callable[[], Batches] | None = None) -> Any:
    """An onnx.ModelProto in another precision; what goes in and out stays float32.

    Args:
        precision: fp32, fp16, bf16 or int8.
        calibration: for int8: gives inputs of the graph as they will be; the ranges of activations are taken from them.
    Raises:
        InputError: int8 without calibration, or onnxruntime, which quantises, is not installed.
    """
    if precision == "fp32" or graph.name == "prompts":
        return proto  # prompts are computed once: nothing is gained
    if precision == "int8":
        if calibration is None:
            raise InputError("precision int8 needs audio for calibration: give --calibration FILE")
        return _quantized(proto, calibration)
    return _cast(proto, precision)


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
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input} | {value.name for value in proto.graph.output}
    kept = [tensor for tensor in proto.graph.initializer if tensor.name in used]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    return proto


def _bfloat16() -> Any:
    import ml_dtypes

    return ml_dtypes.bfloat16


def _quantized(proto: Any, calibration: Callable[[], Batches]) -> Any:
    """int8 as QuantizeLinear and DequantizeLinear: weights by output channel, activations by the tensor, both
    symmetric, as TensorRT takes them."""
    try:
        from onnxruntime import quantization as q
    except ImportError:
        raise InputError("precision int8 needs onnxruntime: pip install 'ussfast[onnx]'") from None
    import tempfile
    from pathlib import Path

    import onnx

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(calibration())

        def get_next(self) -> Any:
            batch = next(self._batches, None)
            return None if batch is None else {name: tensor.numpy() for name, tensor in batch.items()}

    weighted = _weighted(proto)
    chosen = [node.name for node in proto.graph.node if node.name in weighted]
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder, "float.onnx"), Path(folder, "int8.onnx")
        onnx.save(proto, before)
        q.quantize_static(
            before, after, Reader(), quant_format=q.QuantFormat.QDQ, per_channel=True, nodes_to_quantize=chosen,
            activation_type=q.QuantType.QInt8, weight_type=q.QuantType.QInt8, op_types_to_quantize=list(PRODUCTS),
            calibrate_method=q.CalibrationMethod.MinMax,
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "MatMulConstBOnly": True},
        )  # fmt: skip
        return onnx.load(after)
