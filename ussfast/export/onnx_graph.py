"""One graph as ONNX: traced over the ops' references, standard operators only, names and shapes as users read them."""

import copy
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from io import StringIO
from typing import Any

import torch
from torch.fx.experimental import _config

from ussfast.errors import InputError, UssfastError
from ussfast.export.axes import with_axes
from ussfast.export.graphs import Graph
from ussfast.export.products import AsProducts
from ussfast.export.recurrent import translations, with_layers
from ussfast.models._packed import Preparable
from ussfast.ops import use_reference

OPSET = 20
DOMAINS = ("", "ai.onnx")
FOLDED = 1 << 31


def trace(graph: Graph, **sizes: int) -> torch.export.ExportedProgram:
    """The graph for sizes within its bounds; `Graph.dims` of one number only stay as they are.

    sizes: of the example that is traced, by dimension.
    """
    example = graph.example(**sizes)
    named = {name: torch.export.Dim(name, min=1, max=most) for name, (_, most) in graph.dims.items() if most > 1}
    sized: dict[str, Any] = {
        name: torch.export.Dim(f"{name}_hops", min=1, max=most // graph.steps[name]) * graph.steps[name]
        for name, (_, most) in graph.dims.items()
        if name in graph.steps and most > 1
    }
    bound = named | sized
    shapes = [{i: bound[d] for i, d in enumerate(shape) if d in bound} for shape in graph.inputs.values()]
    # A copy without what models keep for inference, traced as if it learned: those ways have no loops over items.
    network, args = copy.deepcopy(graph.network).eval().requires_grad_(False), tuple(example.values())
    for part in network.modules():
        if isinstance(part, Preparable):
            part._prepared = None
    spread = _collects(network)
    shown = tuple(shapes) if spread is None else (*shapes[:spread], tuple(shapes[spread:]))
    # No size is special: a single frame or prompt goes through the same graph.
    equal = _config.patch(backed_size_oblivious=True)  # type: ignore[attr-defined]
    with _quiet(), use_reference(), torch.enable_grad(), equal, AsProducts():
        return torch.export.export(
            network, args, dynamic_shapes=shown, strict=False, prefer_deferred_runtime_asserts_over_guards=True
        )


def _collects(network: torch.nn.Module) -> int | None:
    """The place of `*state` among the arguments of forward, if it has one."""
    code = network.forward.__func__.__code__  # type: ignore[attr-defined]
    return code.co_argcount - 1 if code.co_flags & 0x04 else None


def to_onnx(graph: Graph) -> Any:
    """An onnx.ModelProto of it, checked.

    Raises:
        UssfastError: what came out has operators of another domain, or is not a valid model.
    """
    require_onnx()
    import onnx
    import onnx_ir
    from onnx_ir.passes import common
    from onnxscript import optimizer

    program = trace(replace(graph, network=with_layers(graph.network)))
    with _quiet(), torch.no_grad():
        found = torch.onnx.export(
            program, dynamo=True, opset_version=OPSET, optimize=False, verbose=False,
            custom_translation_table=translations(), input_names=list(graph.inputs), output_names=list(graph.outputs),
        )  # fmt: skip
        assert found is not None
        model = found.model
        _name_weights(model.graph)
        # Weights as products take them, however large: only so is each product's weight one tensor.
        optimizer.fold_constants(model, input_size_limit=FOLDED, output_size_limit=FOLDED)
        common.IdentityEliminationPass()(model)
        common.CommonSubexpressionEliminationPass()(model)
        optimizer.remove_unused_nodes(model)
    common.ClearMetadataAndDocStringPass()(model)
    _name(model.graph.inputs, graph.inputs, graph)
    _name(model.graph.outputs, graph.outputs, graph)
    for node in model.graph:
        # Shapes in between are named after symbols of the tracer, which say nothing.
        for value in node.outputs:
            if value not in model.graph.outputs:
                value.shape = None
    model.producer_name = "ussfast"
    proto = with_axes(onnx_ir.serde.serialize_model(model))
    check(proto)
    onnx.checker.check_model(proto)
    return proto


def _name_weights(graph: Any) -> None:
    """What is made of parameters alone is named after them: folding keeps names, and nothing else says whose it is."""
    whose, taken = {value: name for name, value in graph.initializers.items()}, set(graph.initializers)
    constants = set(whose)
    for node in graph:
        given = [value for value in node.inputs if value is not None]
        if node.op_type == "Constant":
            constants.update(node.outputs)
        elif given and constants.issuperset(given):
            constants.update(node.outputs)
            if names := [whose[value] for value in given if value in whose]:
                for value in node.outputs:
                    whose[value], name, count = names[0], f"{names[0]}.{node.op_type.lower()}", 1
                    while name in taken:
                        count += 1
                        name = f"{names[0]}.{node.op_type.lower()}{count}"
                    taken.add(name)
                    value.name = name


def _name(values: Any, shapes: dict[str, Any], graph: Graph) -> None:
    import onnx_ir

    assert [value.name for value in values] == list(shapes)
    for value, shape in zip(values, shapes.values(), strict=True):
        sizes = [1 if graph.dims.get(d) == (1, 1) else d for d in shape]
        value.shape = onnx_ir.Shape(sizes)


def check(proto: Any) -> None:
    """UssfastError for operators that are not standard ONNX, and for state that is hidden in the model."""
    foreign = sorted({f"{node.domain}::{node.op_type}" for node in nodes(proto.graph) if node.domain not in DOMAINS})
    if foreign or proto.functions:
        names = foreign or sorted(function.name for function in proto.functions)
        raise UssfastError(f"the graph has operators that are not standard ONNX: {', '.join(names)}")
    fed = {value.name for value in proto.graph.input}
    if hidden := sorted(fed & {tensor.name for tensor in proto.graph.initializer}):
        raise UssfastError(f"the graph has inputs with values of its own, a state that hosts would not see: {hidden}")


def nodes(graph: Any) -> Iterator[Any]:
    """All nodes of an onnx.GraphProto, those of its subgraphs too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from nodes(inner)


def require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(f"exporting needs {error.name}: pip install 'ussfast[export]'") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter says to those who wrote it."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
