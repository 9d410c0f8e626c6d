"""Directories of exported models: all graphs, then what is said of them; complete or without export.json."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

import ussfast
from ussfast.audio.atomic import atomic_write, write_failure
from ussfast.checkpoints import store
from ussfast.checkpoints.exported import (
    FORMAT,
    KEY,
    MANIFEST,
    PRECISIONS,
    PROMPTS,
    VERSION,
    Exported,
    GraphFile,
    Port,
    Precision,
    file_hash,
    is_exported,
    read_exported,
    write_exported,
    write_json,
)
from ussfast.checkpoints.info import describe as describe_model
from ussfast.checkpoints.info import fingerprint_of
from ussfast.errors import InputError
from ussfast.export import checking
from ussfast.export.graphs import Graph, Limits, graphs_of
from ussfast.export.onnx_graph import OPSET, require_onnx, to_onnx
from ussfast.export.precision import lowered
from ussfast.models import DETECTORS, Network, SpectralModel, architecture_of
from ussfast.models.causal import CausalModel
from ussfast.models.config import to_dict

Told = Callable[[str], None]


@dataclass(frozen=True)
class Named:
    """A model and what it is called."""

    model: Network
    name: str
    fingerprint: str


def open_model(model: str | os.PathLike[str] | Network, name: str | None = None) -> Named:
    """A model by name, or one in memory; CheckpointError where there is none."""
    if isinstance(model, torch.nn.Module):
        called = name or "model"
        info = describe_model(model.config, architecture_of(model.config), model.parameter_count(), called)
        return Named(model, called, fingerprint_of(info, model.state_dict()))
    directory = store.resolve(str(model))
    detects = store.read_info(directory).detects
    network, info = (store.load_detector if detects else store.load_model)(directory)
    return Named(network, name or info.name, info.fingerprint)


def export_onnx(
    model: str | os.PathLike[str] | Network,
    directory: str | os.PathLike[str],
    *,
    precision: Precision = "fp32",
    modes: Iterable[str] | None = None,
    limits: Limits | None = None,
    with_stft: bool = False,
    name: str | None = None,
    overwrite: bool = False,
    check: bool = False,
    told: Told | None = None,
) -> Exported:
    """Writes ONNX graphs of a model, with standard operators only, and export.json beside them.

    Args:
        model: a name as `Separator` takes it, also of a detector, or a model in memory.
        directory: made if it is missing; an export there is replaced if `overwrite`.
        precision: of weights and matrix products, int8 of weights alone; norms, softmax and attention scores are
            float32, and so is everything that goes in or out.
        modes: "offline" and, for causal models, "step"; by default all that the model has.
        limits: of what a graph takes at once.
        with_stft: audio goes in and comes out offline, too; else spectra.
        check: runs every graph in onnxruntime and holds it to PyTorch, also with other sizes.
        told: called with a line for each step.
    Raises:
        CheckpointError, InputError: no such model, or one that has no such graph; `onnx` is not installed.
        OutputError: the directory cannot be written. What was there stays until all graphs are ready.
        UssfastError: the check failed; what was written stays.
    """
    require_onnx()
    if precision not in PRECISIONS:
        raise InputError(f"precision must be one of {', '.join(PRECISIONS)}, got {precision!r}")
    found, limits = open_model(model, name), limits or Limits()
    graphs = chosen(found.model, modes, limits, with_stft)
    directory = target(directory, overwrite)

    def write(graph: Graph, path: Path, said: dict[str, Any]) -> None:
        proto = lowered(to_onnx(graph), graph, precision)
        entry = proto.metadata_props.add()
        entry.key, entry.value = KEY, json.dumps(said, ensure_ascii=False)
        path.write_bytes(proto.SerializeToString())

    about = describe(found, "onnx", precision, OPSET)
    exported = write_all(directory, about, graphs, ".onnx", write, found.model, told)
    if check:
        for one in checking.check(directory, graphs):
            if told is not None:
                told(f"{one.graph} at {one.sizes}: {one.output} off by {one.error:.1e}")
    return exported


def chosen(model: Network, modes: Iterable[str] | None, limits: Limits, with_stft: bool) -> list[Graph]:
    """Each graph once, in the order of the modes."""
    wanted = list(modes or (("offline", "step") if isinstance(model, CausalModel) else ("offline",)))
    graphs: dict[str, Graph] = {}
    for mode in wanted:
        for graph in graphs_of(model, mode, limits, with_stft):
            graphs.setdefault(graph.name, graph)
    return list(graphs.values())


def target(directory: str | os.PathLike[str], overwrite: bool) -> Path:
    """The directory, made; InputError if something is in it that would be lost."""
    path = store.place(directory)
    if path.is_dir() and any(path.iterdir()) and not (is_exported(path) and overwrite):
        hint = "--overwrite replaces it" if is_exported(path) else "give a new or an empty directory"
        raise InputError(f"{path}: is not empty: {hint}")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_failure(path, error) from error
    return path


def describe(found: Named, kind: Any, precision: Any, opset: int) -> Exported:
    """Everything of export.json but the graphs."""
    config: Any = found.model.config
    causal = isinstance(found.model, CausalModel)
    labels = tuple(getattr(config, "labels", ())) or tuple(getattr(config, "prompts", ()))
    return Exported(
        format=FORMAT,
        version=VERSION,
        ussfast=ussfast.__version__,
        kind=kind,
        precision=precision,
        opset=opset,
        name=found.name,
        architecture=architecture_of(config),
        parameters=found.model.parameter_count(),
        config=to_dict(config),
        sample_rate=config.sample_rate,
        hop=config.front.hop if architecture_of(config) in DETECTORS else config.stft.hop,
        latency_samples=config.latency_samples if causal else None,
        labels=labels,
        graphs={},
        fingerprint=found.fingerprint,
    )


def write_all(
    directory: Path,
    about: Exported,
    graphs: list[Graph],
    suffix: str,
    write: Callable[[Graph, Path, dict[str, Any]], None],
    model: Network,
    told: Told | None = None,
) -> Exported:
    """Writes all graphs by `write`, under names of their own until the last one is there, then export.json."""
    ready: list[tuple[Path, Path]] = []
    files: dict[str, Any] = {}
    try:
        for graph in graphs:
            if told is not None:
                told(f"{graph.name}{suffix}")
            path = directory / f"{graph.name}{suffix}"
            with atomic_write(directory / f".{graph.name}.ready{suffix}") as temporary:
                said = asdict(about) | {"graphs": {graph.name: _file(graph, path.name, "")}}
                write(graph, temporary, said)
            ready.append((directory / f".{graph.name}.ready{suffix}", path))
            files[graph.name] = _file(graph, path.name, file_hash(ready[-1][0]))
        # From here on, what was there before is gone, graphs that this export has not, too.
        former = read_exported(directory).graphs if is_exported(directory) else {}
        for file in (MANIFEST, PROMPTS, *(graph["file"] for graph in former.values())):
            (directory / file).unlink(missing_ok=True)
        for fresh, path in ready:
            os.replace(fresh, path)
    finally:
        for fresh, _ in ready:
            fresh.unlink(missing_ok=True)
    vectors = own_prompts(model)
    if vectors:
        write_json(directory / PROMPTS, vectors)
    exported = replace(about, graphs=files)
    write_exported(directory, exported)
    return exported


def own_prompts(model: Network) -> dict[str, list[float]]:
    """Vectors of the model's own prompts by name."""
    if not isinstance(model, SpectralModel) or not model.prompt_names:
        return {}
    vectors = model.prompt_vectors(model.prompt_names)
    assert vectors is not None
    return {name: row.tolist() for name, row in zip(model.prompt_names, vectors.detach().float(), strict=True)}


def _file(graph: Graph, file: str, sha256: str) -> dict[str, Any]:
    def ports(shapes: dict[str, Any]) -> tuple[Port, ...]:
        return tuple(Port(name, tuple(shape)) for name, shape in shapes.items())

    dims = {name: list(ends) for name, ends in graph.dims.items()}
    return asdict(GraphFile(file, sha256, ports(graph.inputs), ports(graph.outputs), graph.state, dims))
