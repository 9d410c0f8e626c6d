"""Sizes that a compiler took to be equal because they are in the example.

Compilers compare sizes of the example where they have to decide, and note down what they went by. Nobody reads the
notes of one that compiles ahead of time: its library would then write where it must not, at sizes where they do not
hold.
"""

from itertools import product
from typing import Any

import sympy
import torch

from ussfast.export.graphs import Graph

_FEW = 9  # consecutive sizes that are tried: strides and paddings repeat within fewer


def taken_for_equal(traced: torch.export.ExportedProgram, graph: Graph) -> list[str]:
    """What tracer and compiler took to be equal, and is not at all sizes of the graph; as text, the simplest first."""
    named = {node.name: node.meta["val"] for node in traced.graph.nodes if node.op == "placeholder"}
    inputs = [named[name] for name in traced.graph_signature.user_inputs]
    symbols: dict[Any, tuple[str, int]] = {}  # the dimension, and of how many of its units a symbol is
    for tensor, shape in zip(inputs, graph.inputs.values(), strict=True):
        for size, name in zip(tensor.shape, shape, strict=True):
            if isinstance(size, torch.SymInt) and isinstance(name, str):
                for expr in (size.node._expr, size.node.expr):
                    unit, rest = expr.as_coeff_Mul()
                    if isinstance(rest, sympy.Symbol):
                        symbols[rest] = name, int(unit)
    notes = inputs[0].fake_mode.shape_env
    held = {note.expr for note in notes.guards}
    held |= {note.expr for found in notes.deferred_runtime_asserts.values() for note in found}
    odd = [str(expr) for expr in held if isinstance(expr, sympy.Eq) and not _always(expr, symbols, graph)]
    return sorted(odd, key=lambda text: (len(text), text))


def _always(expr: Any, symbols: dict[Any, tuple[str, int]], graph: Graph) -> bool:
    """Whether it holds at the least, the most and a few more sizes; also if it is about others than those of inputs."""
    about = [symbol for symbol in expr.free_symbols if symbol in symbols]
    if len(about) < len(expr.free_symbols):
        return True
    names = sorted({symbols[symbol][0] for symbol in about})
    for sizes in product(*(_tried(graph, name) for name in names)):
        at = dict(zip(names, sizes, strict=True))
        values = {symbol: sympy.Integer(at[symbols[symbol][0]] // symbols[symbol][1]) for symbol in about}
        if expr.xreplace(values) == sympy.false:
            return False
    return True


def _tried(graph: Graph, name: str) -> list[int]:
    (least, most), step = graph.dims[name], graph.steps.get(name, 1)
    return sorted({most, (least + most) // 2 // step * step, *range(least, most + 1, step)[:_FEW]})
