"""Builds TensorRT engines of the ONNX files of an export directory, on the GPU that they are for."""

import json
import logging
import os
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.engine.backends.trt_engines import (
    EngineKey,
    engine_path,
    fingerprint,
    logger_of,
    read_engine,
    sha256_of,
    sidecar,
    sidecar_path,
    started,
    tensorrt,
    told,
)  # fmt: skip
from ussfast.errors import CheckpointError, DeviceError, InputError, OutputError, UssfastError
from ussfast.export.trt import timing_cache as timings
from ussfast.export.trt import versions
from ussfast.export.trt.graphs import Graphs, Shapes, graphs_in
from ussfast.export.trt.progress import Bar, interruptible, monitor_of
from ussfast.values import flag, number

LOG = logging.getLogger("ussfast.tensorrt")
GIGABYTE = 1 << 30
MOST_WORKSPACE_GB = 1024.0


@dataclass(frozen=True)
class BuiltEngine:
    """One engine. report: the file beside it, with how it was built, parity and latency; reused: it was there already.

    seconds: that the build took. parity, latency: see `measure`; None where they were not asked for.
    """

    graph: str
    path: Path
    report: Path
    seconds: float
    reused: bool
    parity: dict[str, Any] | None = None
    latency: dict[str, Any] | None = None

    @property
    def good(self) -> bool:
        """No difference to onnxruntime is larger than the precision explains, as far as it was measured."""
        return self.parity is None or all(case["good"] is not False for case in self.parity["cases"])


@dataclass(frozen=True)
class _Request:
    """What the engine of one graph is built of."""

    graph: str
    onnx: Path
    key: EngineKey
    shapes: dict[str, Shapes]
    workspace_bytes: int | None

    def settings(self) -> dict[str, Any]:
        """As the file beside the engine has it: an engine that was built with others is built again."""
        shapes = {name: {kind: list(sizes) for kind, sizes in asdict(of).items()} for name, of in self.shapes.items()}
        return {"shapes": shapes, "workspace_bytes": self.workspace_bytes}


def build_engines(
    directory: str | os.PathLike[str],
    *,
    graphs: Sequence[str] | None = None,
    typical: Mapping[str, int] | None = None,
    workspace_gb: float | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    progress: bool = True,
    check: bool = True,
    device: str = "cuda",
) -> list[BuiltEngine]:
    """Makes an engine of every graph of an export, for this GPU and this TensorRT, and measures it.

    An engine that was built before of the same file with the same settings is kept.

    Args:
        directory: with export.json and ONNX files; engines are written beside them, as NAME.<key>.engine.
        graphs: names of graphs, all by default.
        typical: sizes that engines are made fastest for, such as {"frames": 500, "sources": 2}; by default windows of
            6 s, as many as fit into a batch, and streams one by one.
        workspace_gb: GPU memory that TensorRT may use while it runs, in 2^30 bytes; by default all there is.
        timing_cache: a file of measurements for further builds; by default one per GPU and version in USSFAST_CACHE or
            ~/.cache/ussfast.
        progress: shows a bar on a terminal. Ctrl-C ends a build, and leaves no file of it.
        check: holds the engine against onnxruntime on the CPU, and measures its latency.
        device: "cuda" or "cuda:N".
    Raises:
        CheckpointError: the directory is no export of ONNX files, or TensorRT does not take a graph.
        DeviceError: there is no TensorRT or no GPU; the message says what to run where there are.
        InputError: graphs, sizes or settings that cannot be; no onnxruntime to check with.
        OutputError: an engine could not be written.
        UssfastError: the build failed, such as for want of memory.
    """
    export = graphs_in(directory)
    names = export.chosen(graphs)
    if unknown := set(typical or ()) - {size for name in names for size in export.dims[name]}:
        raise InputError(f"typical: no graph has a size called {', '.join(sorted(unknown))}")
    shapes = {name: export.shapes(name, typical) for name in names}
    flag(progress, "progress"), flag(check, "check")
    workspace = None
    if workspace_gb is not None:
        workspace = int(number(workspace_gb, "workspace_gb", 0.001, MOST_WORKSPACE_GB, "GB") * GIGABYTE)
    trt, cuda = _machine(export, device)
    if check:  # before minutes of work: is onnxruntime there?
        from ussfast.engine.backends.onnx import OnnxRunner

        OnnxRunner(export.directory)
    built = []
    for name in names:
        onnx = export.files[name]
        key = EngineKey(cuda.name, cuda.capability, trt.__version__, fingerprint(onnx))
        request = _Request(name, onnx, key, shapes[name], workspace)
        with cuda.active():
            done = _built(trt, cuda, request, timing_cache, progress)
        built.append(_measured(export, done, device, typical) if check else done)
    return built


def verify_engines(
    directory: str | os.PathLike[str], *, graphs: Sequence[str] | None = None, device: str = "cuda"
) -> list[BuiltEngine]:
    """Holds the engines that there are for this GPU against onnxruntime once more, and measures them.

    Raises:
        CheckpointError, DeviceError: as `build_engines`, and where an engine is missing or damaged.
    """
    export = graphs_in(directory)
    names = export.chosen(graphs)
    trt, cuda = _machine(export, device)
    found = []
    for name in names:
        onnx = export.files[name]
        key = EngineKey(cuda.name, cuda.capability, trt.__version__, fingerprint(onnx))
        read_engine(onnx, key)
        path = engine_path(onnx, key)
        about = sidecar(path) or {}
        there = BuiltEngine(name, path, sidecar_path(path), float(about.get("seconds", 0)), True)
        found.append(_measured(export, there, device, None))
    return found


def _machine(export: Graphs, device: str) -> tuple[Any, Any]:
    """TensorRT and the GPU, or what to do where they are."""
    try:
        trt = tensorrt()
        from ussfast.engine.backends.trt import Cuda  # torch, which takes seconds

        return trt, Cuda(device)
    except DeviceError as error:
        raise DeviceError(
            f"{error}; the ONNX files in {export.directory} are complete: where the GPU is, pip install 'ussfast[trt]'"
            f" and run python -m ussfast.export.trt {export.directory}"
        ) from None


def _built(trt: Any, cuda: Any, request: _Request, timing_cache: Any, progress: bool) -> BuiltEngine:
    path = engine_path(request.onnx, request.key)
    known = _there(path)
    if known is not None and known.get("settings") == request.settings():
        return BuiltEngine(
            request.graph, path, sidecar_path(path), 0.0, True, known.get("parity"), known.get("latency")
        )  # fmt: skip
    begin = time.monotonic()
    with atomic_write(path) as temporary:  # first: a directory that cannot be written is told before the work
        plan = _plan(trt, cuda, request, timing_cache, progress)
        sidecar_path(path).unlink(missing_ok=True)  # of an engine that this one replaces
        temporary.write_bytes(plan)
    seconds = time.monotonic() - begin
    about = {
        "key": asdict(request.key),
        "engine_sha256": sha256_of(plan),
        "bytes": len(plan),
        "graph": request.graph,
        "seconds": round(seconds, 3),
        "settings": request.settings(),
    }
    write_report(path, about)
    return BuiltEngine(request.graph, path, sidecar_path(path), seconds, False)


def _there(path: Path) -> dict[str, Any] | None:
    """What stands beside an engine that is usable."""
    try:
        known = sidecar(path)
    except CheckpointError:
        return None
    if known is None or path.stat().st_size != known["bytes"] or sha256_of(path.read_bytes()) != known["engine_sha256"]:
        return None
    return known


def write_report(engine: Path, about: Mapping[str, Any]) -> None:
    """Writes the file beside an engine."""
    with atomic_write(sidecar_path(engine)) as temporary:
        temporary.write_text(json.dumps(about, indent=1) + "\n")


def _plan(trt: Any, cuda: Any, request: _Request, timing_cache: Any, progress: bool) -> bytes:
    """The serialised engine."""
    logger = logger_of(trt)
    builder = started(trt.Builder, logger)
    network = versions.create_network(trt, builder)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(request.onnx)):
        faults = [versions.fault(parser.get_error(index)) for index in range(parser.num_errors)]
        raise CheckpointError(f"{request.onnx}: TensorRT {trt.__version__} does not take it: {'; '.join(faults[:3])}")
    config = builder.create_builder_config()
    # Products in float32 are asked for where the graph says float32: TensorFloat-32 has 10 bits of them.
    config.clear_flag(trt.BuilderFlag.TF32)
    if request.workspace_bytes is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_bytes)
    profile = builder.create_optimization_profile()
    _check_inputs(network, request)
    for name, shapes in request.shapes.items():
        profile.set_shape(name, shapes.least, shapes.typical, shapes.most)
    if config.add_optimization_profile(profile) < 0:
        raise UssfastError(f"{request.onnx}: TensorRT does not take the limits of its sizes{told(logger)}")
    cache = Path(timing_cache) if timing_cache is not None else timings.default_path(request.key)
    timings.use(config, cache)
    cancelled = threading.Event()
    bar = Bar(request.graph, progress)
    monitor = monitor_of(trt, bar, cancelled)  # TensorRT holds no reference of its own
    config.progress_monitor = monitor

    def work() -> Any:
        with cuda.active():  # the GPU is chosen thread by thread
            return builder.build_serialized_network(network, config)

    try:
        plan = interruptible(work, cancelled)
    finally:
        bar.close()
    if plan is None:
        raise UssfastError(f"{request.onnx}: TensorRT could not build an engine{told(logger)}")
    try:
        timings.keep(config, cache)
    except OutputError as error:
        if timing_cache is not None:
            raise
        LOG.warning("%s", error)  # the engine is built; the next one takes longer
    return bytes(plan)


def _check_inputs(network: Any, request: _Request) -> None:
    """CheckpointError where the graph and export.json speak of different inputs."""
    found = {tensor.name: tuple(tensor.shape) for tensor in map(network.get_input, range(network.num_inputs))}
    for name in sorted(found.keys() | request.shapes.keys()):
        here, listed = found.get(name), request.shapes.get(name)
        fits = here is not None and listed is not None and len(here) == len(listed.most)
        if not fits:
            expected = None if listed is None else list(listed.most)
            raise CheckpointError(f"{request.onnx}: input {name} is {here}, in export.json {expected}")


def _measured(export: Graphs, built: BuiltEngine, device: str, typical: Mapping[str, int] | None) -> BuiltEngine:
    """With parity and latency, also in the file beside the engine; kept where they are there."""
    if built.parity is not None and built.latency is not None:
        return built
    from ussfast.export.trt.measure import latency, parity

    report = sidecar(built.path) or {}
    report["parity"] = parity(export, built.graph, device, typical)
    report["latency"] = latency(export, built.graph, device, typical)
    write_report(built.path, report)
    return BuiltEngine(
        built.graph, built.path, built.report, built.seconds, built.reused, report["parity"], report["latency"]
    )  # fmt: skip
