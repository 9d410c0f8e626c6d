"""Packages of AOTInductor: each graph a shared library that runs without Python, and without ussfast."""

import json
import os
import shutil
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from ussfast.checkpoints.exported import KEY, Exported
from ussfast.errors import DeviceError, InputError, UssfastError
from ussfast.export.equal_sizes import taken_for_equal
from ussfast.export.graphs import Graph, Limits
from ussfast.export.onnx_graph import trace
from ussfast.export.writing import Told, chosen, describe, open_model, target, write_all
from ussfast.models import Network

# What only holds while sizes are checked: those who run a package check them, see `backends._sizes`.
_CHECKS = (torch.ops.aten._assert_scalar.default, torch.ops.aten._assert_tensor_metadata.default)

# Sizes of the example: what is equal in it only by chance, the compiler would take to be equal always.
TRACED = {"frames": 11}


def export_aoti(
    model: str | os.PathLike[str] | Network,
    directory: str | os.PathLike[str],
    *,
    device: str = "cpu",
    precision: str = "fp32",
    modes: Iterable[str] | None = None,
    limits: Limits | None = None,
    with_stft: bool = False,
    name: str | None = None,
    overwrite: bool = False,
    told: Told | None = None,
) -> Exported:
    """Compiles the graphs of a model, and writes export.json beside them.

    A package is for the kind of processor, or GPU, that it was made on. See `export_onnx` for the other arguments.

    Args:
        device: "cpu" or "cuda", what the packages run on.
        precision: "fp32", the only one there is.
    Raises:
        CheckpointError, InputError: no such model, or one that has no such graph; there is no C++ compiler.
        DeviceError: no such device here. UssfastError: the compiler failed.
        OutputError: the directory cannot be written. What was there stays until all graphs are ready.
    """
    if precision != "fp32":
        raise InputError(f"packages of AOTInductor have precision fp32, got {precision!r}: use ONNX for others")
    check_device(device)
    require_compiler()
    found, limits = open_model(model, name), limits or Limits()
    graphs = chosen(found.model, modes, limits, with_stft)
    if any(isinstance(part, torch.nn.RNNBase) for part in found.model.modules()):
        raise InputError("packages of AOTInductor have no recurrent layers for any number of frames: use ONNX")
    directory = target(directory, overwrite)

    def write(graph: Graph, path: Path, said: dict[str, Any]) -> None:
        compile_to(graph, path, device, {KEY: json.dumps(said, ensure_ascii=False)})

    return write_all(directory, describe(found, "aoti", "fp32", 0), graphs, ".pt2", write, found.model, told)


def check_device(device: str) -> None:
    if device not in ("cpu", "cuda"):
        raise InputError(f"device must be cpu or cuda, got {device!r}")
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceError("packages for cuda are made where there is a GPU: this machine, or this PyTorch, has none")


def require_compiler() -> None:
    """InputError where AOTInductor would find no compiler, before any work."""
    from torch._inductor import config

    tried = [config.cpp.cxx] if isinstance(config.cpp.cxx, str) else [name for name in config.cpp.cxx if name]
    if not any(shutil.which(name) for name in tried):
        raise InputError(
            f"packages of AOTInductor need a C++ compiler, and there is no {' or '.join(tried)}: install one, or name "
            "it in the environment variable CXX"
        )


def program(graph: Graph, device: str) -> torch.export.ExportedProgram:
    """What is compiled: operators of PyTorch alone, for all sizes."""
    traced = trace(graph, **TRACED)
    nodes = traced.graph.nodes
    assert not [node for node in nodes if "ussfast" in str(node.target)], "operators of ours need ussfast to load"
    if traced.graph_signature.buffers_to_mutate or traced.graph_signature.user_inputs_to_mutate:
        raise UssfastError(f"{graph.name}: the graph has a state that hosts would not see")
    # Among them are ones that a size is not 1, which the tracer asked itself and where either answer is right.
    for node in [node for node in nodes if node.target in _CHECKS]:
        traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.graph_module.recompile()
    if device != "cpu":
        from torch.export.passes import move_to_device_pass

        traced = move_to_device_pass(traced, device)
    return traced


def compile_to(graph: Graph, path: Path, device: str, said: dict[str, str]) -> None:
    """Writes a package; UssfastError with a line of what the compiler says if it fails."""
    from torch._inductor import aoti_compile_and_package

    traced = program(graph, device)
    options = {
        "aot_inductor.metadata": dict(said),
        # They take longer to make than they save.
        "aot_inductor.precompile_headers": False,
        # As many threads as the program that runs it asks for, and not as many as this one has.
        "cpp.dynamic_threads": True,
    }
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            aoti_compile_and_package(traced, package_path=str(path), inductor_configs=options)
    except RuntimeError as error:  # of the C++ compiler, too
        raise UssfastError(f"{graph.name}: AOTInductor could not compile it: {_said(error)}") from error
    if taken := taken_for_equal(traced, graph):
        raise UssfastError(f"{graph.name}: AOTInductor made it for sizes where {taken[0]}, and not for all")


def _said(error: Exception) -> str:
    """The line of a failure that tells most: what compilers print is long."""
    cause = getattr(error, "inner_exception", error)
    lines = [line.strip() for line in getattr(cause, "output", str(cause)).splitlines() if line.strip()]
    told = [line for line in lines if "error" in line.lower()] or lines
    return told[0] if told else type(cause).__name__
