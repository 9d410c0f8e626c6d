"""What was exported, held to the model that it was made of."""

import os
from dataclasses import dataclass

import torch

from ussfast.engine.backends.onnx import OnnxRunner
from ussfast.errors import UssfastError
from ussfast.export.graphs import Graph

# Of an output's norm, by precision.
TOLERANCES = {"fp32": 1e-4, "fp16": 2e-2, "bf16": 1e-1, "int8": 0.5}
# Other sizes than those that graphs are traced with, within their bounds.
SIZES = (
    {"batch": 1, "frames": 1, "sources": 1, "samples": 1},
    {"batch": 3, "frames": 33, "sources": 4, "samples": 30000},
)


@dataclass(frozen=True)
class Checked:
    """One comparison: how far the worst output is off, over its norm."""

    graph: str
    sizes: dict[str, int]
    output: str
    error: float


def check(directory: str | os.PathLike[str], graphs: list[Graph]) -> list[Checked]:
    """Runs the ONNX graphs of a directory and the networks that they were made of on the same random inputs.

    Raises:
        UssfastError: an output is farther off than its precision explains.
    """
    runner = OnnxRunner(directory)
    allowed, found = TOLERANCES[runner.exported.precision], []
    for graph in graphs:
        for seed, sizes in enumerate(SIZES):
            given = graph.example(seed, **sizes)
            with torch.no_grad():
                wanted = graph.network(*given.values())
            wanted = wanted if isinstance(wanted, tuple) else (wanted,)
            got = runner.run(graph.name, given)
            errors = {
                name: ((got[name] - value).norm() / value.norm().clamp(min=1e-9)).item()
                for name, value in zip(graph.outputs, wanted, strict=True)
            }
            worst = max(errors, key=lambda name: errors[name])
            shown = {name: graph.size(name, **sizes) for name in graph.dims}
            found.append(Checked(graph.name, shown, worst, errors[worst]))
            if not errors[worst] <= allowed:
                raise UssfastError(
                    f"{graph.name}: {worst} is off by {errors[worst]:.1e} of its norm at {shown}, "
                    f"{allowed:.0e} is allowed in {runner.exported.precision}"
                )
    return found
