"""Holds an engine against onnxruntime on the CPU, which runs the same file, and measures how long a run takes."""

import math
import statistics
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ussfast.engine.backends.onnx import OnnxRunner
from ussfast.engine.backends.trt import TrtRunner
from ussfast.export.trt.graphs import Graphs

# Least signal-to-noise ratio of an output to the reference's, in dB, by the precision of the graph.
LEAST_DB = {"fp32": 80.0, "fp16": 40.0, "bf16": 40.0, "int8": 30.0}
STEPS = 4  # runs in a row, of a graph with state
WARM_UP, RUNS = 10, 100
# Numbers that go into the reference at most: on a CPU more take minutes and tell no more.
MOST_ELEMENTS = 4_000_000


def random_inputs(shapes: Mapping[str, tuple[int, ...]], seed: int, state: Mapping[str, str]) -> dict[str, Tensor]:
    """Normal noise by name, of shapes; zeros for what is state."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in shapes.items():
        made[name] = torch.zeros(shape) if name in state else torch.randn(shape, generator=generator)
    return made


def parity(export: Graphs, graph: str, device: str, typical: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Differences of the engine's outputs to onnxruntime's: of the least sizes, and of the typical ones.

    A graph with state runs several times, each of the two with its own state.

    Returns:
        {"least_db": ..., "cases": [{"sizes", "output", "db", "max_difference", "peak", "good"}]}; "good" is None, and
        "reason" says why, where onnxruntime cannot run the graph.
    Raises:
        InputError: there is no onnxruntime.
    """
    reference = OnnxRunner(export.directory)
    runner = TrtRunner(export.directory, device)
    state = dict(export.state[graph])
    least = LEAST_DB.get(export.about.precision, min(LEAST_DB.values()))
    cases: list[dict[str, Any]] = []
    for sizes in _cases(export, graph, typical):
        ours: dict[str, Tensor] = {}
        theirs: dict[str, Tensor] = {}
        names = {name: export.filled(graph, name, sizes) for name in export.inputs[graph]}
        for step in range(STEPS if state else 1):
            inputs = random_inputs(names, step, state)
            carried = {name: ours.get(after, inputs[name]) for name, after in state.items()}
            expected = {name: theirs.get(after, inputs[name]) for name, after in state.items()}
            try:
                theirs = reference.run(graph, inputs | expected)
            except Exception as error:  # such as a type that has no kernels on CPUs
                cases.append({"sizes": sizes, "good": None, "reason": " ".join(str(error).split())[:300]})
                break
            ours = runner.run(graph, inputs | carried)
        else:
            found = {name: _difference(ours[name], theirs[name], least) for name in theirs}
            cases += [{"sizes": sizes, "output": name, **about} for name, about in found.items()]
    return {"least_db": least, "cases": cases}


def _cases(export: Graphs, graph: str, typical: Mapping[str, int] | None) -> list[dict[str, int]]:
    least = {name: low for name, (low, _) in export.dims[graph].items()}
    usual = export.typical(graph, typical)
    if "batch" in usual:
        usual["batch"] = max(least["batch"], min(usual["batch"], 2))  # sums over a batch show with two
    elements = sum(math.prod(export.filled(graph, name, usual)) for name in export.inputs[graph])
    return [least] if usual == least or elements > MOST_ELEMENTS else [least, usual]


def _difference(ours: Tensor, theirs: Tensor, least: float) -> dict[str, Any]:
    if ours.shape != theirs.shape:
        return {"good": False, "reason": f"shapes {list(ours.shape)} and {list(theirs.shape)}"}
    reference = theirs.double()
    noise = ours.double().cpu() - reference
    power, error = float(reference.square().sum()), float(noise.square().sum())
    decibels = 200.0 if error == 0 else 10 * math.log10(max(power, 1e-30) / error) if math.isfinite(error) else -200.0
    return {
        "db": round(decibels, 2),
        "max_difference": float(noise.abs().max()) if noise.numel() else 0.0,
        "peak": float(reference.abs().max()) if noise.numel() else 0.0,
        "good": decibels >= least,
    }


def latency(export: Graphs, graph: str, device: str, typical: Mapping[str, int] | None = None) -> dict[str, Any]:
    """Times of single runs on inputs that are on the GPU, in milliseconds.

    Returns:
        {"runs", "cases": [{"sizes", "median_ms", "p99_ms"}]}: of one item of a batch, and of a typical batch.
    """
    runner = TrtRunner(export.directory, device)
    usual = export.typical(graph, typical)
    single = usual | ({"batch": export.dims[graph]["batch"][0]} if "batch" in usual else {})
    cases = []
    for sizes in [single] if single == usual else [single, usual]:
        shapes = {name: export.filled(graph, name, sizes) for name in export.inputs[graph]}
        inputs = {name: x.to(runner.device) for name, x in random_inputs(shapes, 0, dict(export.state[graph])).items()}
        times = sorted(runner.timed(graph, inputs, WARM_UP, RUNS))
        nearest = times[math.ceil(0.99 * len(times)) - 1]
        cases.append({"sizes": sizes, "median_ms": round(statistics.median(times), 4), "p99_ms": round(nearest, 4)})
    return {"runs": RUNS, "cases": cases}
