"""A model repository for the Triton Inference Server, of an export directory: one model per graph.

    python -m ussfast.export.triton_server DIR -o REPOSITORY [--engines] [--sources 2] [--streams 64]

Graphs with state become models with sequence batching: the server keeps the state of each stream, which begins with
zeros, and computes hops of several streams together. Fields are those of model_config.proto of the server; how state is
declared: its page "Implicit State Management".
"""

import argparse
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import write_failure
from ussfast.audio.temporary import sweep, temporary_name
from ussfast.engine.backends.trt_engines import sidecar
from ussfast.errors import InputError, OutputError, UssfastError
from ussfast.export.trt.graphs import TYPICAL_SOURCES, Graphs, graphs_in
from ussfast.values import number, whole

FLOAT = "TYPE_FP32"
PLAN = "model.plan"
MOST_STREAMS = 1 << 16


@dataclass(frozen=True)
class Word:
    """A name of the text format, which is not quoted."""

    text: str


def text_of(message: Mapping[str, Any], indent: int = 0) -> str:
    """A message in protobuf's text format; entries that are None are left out, lists are repeated fields."""
    lines, space = [], "  " * indent
    for name, value in message.items():
        if value is None:
            continue
        if isinstance(value, Mapping):
            lines.append(f"{space}{name} {{\n{text_of(value, indent + 1)}{space}}}\n")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{space}{name} {{\n{text_of(one, indent + 1)}{space}}}\n" for one in value]
        elif isinstance(value, list):
            lines.append(f"{space}{name}: [ {', '.join(map(_scalar, value))} ]\n")
        else:
            lines.append(f"{space}{name}: {_scalar(value)}\n")
    return "".join(lines)


def _scalar(value: Any) -> str:
    if isinstance(value, Word):
        return value.text
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def model_config(
    export: Graphs,
    graph: str,
    *,
    plans: Mapping[str, str] | None = None,
    sources: int | None = None,
    streams: int = 64,
    idle_seconds: float = 30.0,
) -> dict[str, Any]:
    """The configuration of one graph, as `text_of` writes it.

    Args:
        plans: file names of engines by compute capability ("9.0"); without any, onnxruntime runs the ONNX file.
        sources: prompts of a stream: a fixed number, since the server makes the state before the first hop.
        streams: that may be open at a time; further ones wait. idle_seconds: after which one is closed.
    Raises:
        InputError: numbers that cannot be, or a graph whose state the server would mix up.
    """
    dims, state = export.dims[graph], export.state[graph]
    inputs, outputs = export.inputs[graph], export.outputs[graph]
    if wrong := [name for name, shape in {**inputs, **outputs}.items() if shape[:1] != ("batch",)]:
        raise InputError(f"{graph}: {', '.join(wrong)} is not by items of a batch, which the server asks for")
    most = dims["batch"][1]
    fixed: dict[str, int] = {}
    if state and "sources" in dims:
        least, limit = dims["sources"]
        usual = min(max(TYPICAL_SOURCES, least), limit)
        fixed["sources"] = usual if sources is None else whole(sources, "sources", least, limit)
    states = dict(state)
    config: dict[str, Any] = {
        "name": model_name(export, graph),
        "platform": "tensorrt_plan" if plans else "onnxruntime_onnx",
        "max_batch_size": most,
        "default_model_filename": None if plans else f"{graph}.onnx",
        "input": _tensors(inputs, states, fixed),
        "output": _tensors(outputs, set(states.values()), fixed),
    }
    if plans:
        config["cc_model_filenames"] = [{"key": capability, "value": name} for capability, name in plans.items()]
    if state:
        config["sequence_batching"] = {
            "max_sequence_idle_microseconds": round(number(idle_seconds, "idle_seconds", 0.001, 86400, "s") * 1e6),
            "oldest": {"max_candidate_sequences": whole(streams, "streams", 1, MOST_STREAMS)},
            "state": _states(graph, state, inputs, fixed),
        }
    elif most > 1:
        config["dynamic_batching"] = {}
    about = export.about
    facts = {"sample_rate": about.sample_rate, "hop": about.hop, "latency_samples": about.latency_samples, **fixed}
    known = {name: str(value) for name, value in facts.items() if value is not None}
    if about.labels:
        known["labels"] = ",".join(about.labels)
    config["parameters"] = [{"key": name, "value": {"string_value": value}} for name, value in known.items()]
    return config


def _sizes(shape: Sequence[int | str], fixed: Mapping[str, int]) -> list[int]:
    """Of one item; -1 for what a request may choose."""
    return [fixed.get(size, -1) if isinstance(size, str) else size for size in shape[1:]]


def _tensors(shapes: Mapping[str, Sequence[int | str]], without: Any, fixed: Mapping[str, int]) -> list[dict[str, Any]]:
    return [
        {"name": name, "data_type": Word(FLOAT), "dims": _sizes(shape, fixed)}
        for name, shape in shapes.items()
        if name not in without
    ]


def _states(
    graph: str, state: Sequence[tuple[str, str]], inputs: Mapping[str, Any], fixed: Mapping[str, int]
) -> list[dict[str, Any]]:
    # Servers of 2025 pair inputs and outputs by their places in alphabetical order (server issue 8586).
    before, after = zip(*sorted(state), strict=True)
    if list(after) != sorted(after):
        raise InputError(f"{graph}: names of states before and after are ordered differently: the server mixes them up")
    found = []
    for name, output in state:
        dims = _sizes(inputs[name], fixed)
        if not dims:  # the server counts no element at all, and gives the model nothing
            raise InputError(f"{graph}: the state {name} has no size beside that of the batch: export the model again")
        if -1 in dims:
            raise InputError(f"{graph}: the size of the state {name} is open: {list(inputs[name])}")
        first = {"data_type": Word(FLOAT), "dims": dims, "zero_data": True, "name": f"zeros of {name}"}
        found.append(
            {"input_name": name, "output_name": output, "data_type": Word(FLOAT), "dims": dims, "initial_state": first}
        )
    return found


def model_name(export: Graphs, graph: str) -> str:
    """A name for the server's URLs."""
    return re.sub(r"[^\w.-]+", "-", f"{export.about.name}-{graph}")


def engines_of(onnx: Path, version: str | None = None) -> dict[str, Path]:
    """Engines beside a graph, by compute capability.

    version: of TensorRT, which must be the server's; needed where there are engines for several.
    Raises:
        InputError: none, or several for one capability.
    """
    found: dict[str, Path] = {}
    versions = set()
    for path in sorted(onnx.parent.glob(f"{onnx.stem}.*.engine")):
        about = sidecar(path)
        if about is None or version not in (None, about["key"]["tensorrt"]):
            continue
        capability = about["key"]["capability"]
        versions.add(about["key"]["tensorrt"])
        if capability in found and len(versions) == 1:
            raise InputError(f"{onnx.parent}: {found[capability].name} and {path.name} are for one compute capability")
        found[capability] = path
    if len(versions) > 1:
        listed = ", ".join(sorted(versions))
        raise InputError(f"{onnx.parent}: engines for TensorRT {listed}: say which is the server's")
    if not found:
        wanted = f" for TensorRT {version}" if version else ""
        raise InputError(f"{onnx.parent}: no engine of {onnx.name}{wanted}: python -m ussfast.export.trt {onnx.parent}")
    return found


def write_repository(
    directory: str | os.PathLike[str],
    repository: str | os.PathLike[str],
    *,
    engines: bool = False,
    tensorrt: str | None = None,
    **settings: Any,
) -> list[str]:
    """Writes the repository, and returns the names of its models.

    Args:
        directory: an export of ONNX files. repository: a directory that does not exist yet, or an empty one.
        engines: the TensorRT engines beside the graphs, instead of onnxruntime; one per compute capability.
        tensorrt: version of the server's TensorRT, where there are engines for several.
        settings: sources, streams, idle_seconds; see `model_config`.
    Raises:
        CheckpointError: `directory` is no export. InputError: settings or engines that cannot be.
        OutputError: `repository` is not empty, or cannot be written; nothing is left of it then.
    """
    export, target = graphs_in(directory), Path(repository)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise OutputError(f"{target}: exists and is not an empty directory: choose another name")
    if not target.parent.is_dir():
        raise OutputError(f"{target}: cannot be written: {target.parent} is not a directory")
    plans = {graph: engines_of(export.files[graph], tensorrt) if engines else {} for graph in export.inputs}
    configs = {}
    for graph, of in plans.items():
        names = {capability: PLAN if len(of) == 1 else f"sm{capability}.{PLAN}" for capability in of}
        configs[graph] = names, model_config(export, graph, plans=names, **settings)
    sweep(target.parent)
    fresh = temporary_name(target)
    try:
        for graph, (names, config) in configs.items():
            folder = fresh / config["name"]
            (folder / "1").mkdir(parents=True)
            (folder / "config.pbtxt").write_text(text_of(config), encoding="utf-8")
            for capability, path in plans[graph].items():
                shutil.copyfile(path, folder / "1" / names[capability])
            for path in [] if engines else [export.files[graph], *export.weights(graph)]:
                shutil.copyfile(path, folder / "1" / path.name)
            vectors = export.directory / "prompts.json"
            if "prompts" in export.inputs[graph] and vectors.is_file():
                shutil.copyfile(vectors, folder / vectors.name)
        if target.is_dir():
            target.rmdir()
        os.rename(fresh, target)
    except OSError as error:
        raise write_failure(target, error) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return [config["name"] for _, config in configs.values()]


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m ussfast.export.triton_server",
        description="Writes a model repository for the Triton Inference Server.",
    )
    parser.add_argument("directory", type=Path, help="made by python -m ussfast.export MODEL --onnx -o DIRECTORY")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="REPOSITORY", help="a new directory")
    parser.add_argument("--engines", action="store_true", help="TensorRT engines instead of ONNX files")
    parser.add_argument("--tensorrt", metavar="VERSION", help="of the server, where there are engines for several")
    parser.add_argument("--sources", type=int, metavar="N", help=f"prompts of a stream, {TYPICAL_SOURCES} by default")
    parser.add_argument("--streams", type=int, default=64, metavar="N", help="streams at a time, 64 by default")
    given = parser.parse_args(arguments)
    try:
        names = write_repository(
            given.directory,
            given.output,
            engines=given.engines,
            tensorrt=given.tensorrt,
            sources=given.sources,
            streams=given.streams,
        )
    except UssfastError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{given.output}: {', '.join(names)}; tritonserver --model-repository={given.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
