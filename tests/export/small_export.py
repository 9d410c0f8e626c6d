"""An export directory of two graphs that compute something in a moment, as the export writes them."""

import hashlib
import json

import numpy as np
from onnx import TensorProto, checker, helper, numpy_helper, save

BINS, DIM, HOP = 4, 3, 5
F = TensorProto.FLOAT


def constant(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def model_graph():
    """spec [batch, frames, bins, 2], prompts [batch, sources, dim] -> estimate [batch, sources, frames, bins, 2]."""
    spec = helper.make_tensor_value_info("spec", F, ["batch", "frames", BINS, 2])
    prompts = helper.make_tensor_value_info("prompts", F, ["batch", "sources", DIM])
    out = helper.make_tensor_value_info("estimate", F, ["batch", "sources", "frames", BINS, 2])
    constants = [constant("one", np.array([1], np.int64)), constant("ends", np.array([3, 4], np.int64))]
    constants.append(constant("last", np.array([-1], np.int64)))
    nodes = [
        helper.make_node("ReduceSum", ["prompts", "last"], ["sums"], keepdims=1),
        helper.make_node("Unsqueeze", ["sums", "ends"], ["wide"]),
        helper.make_node("Unsqueeze", ["spec", "one"], ["each"]),
        helper.make_node("Mul", ["wide", "each"], ["estimate"]),
    ]
    return helper.make_graph(nodes, "model", [spec, prompts], [out], constants)


def step_graph():
    """audio [batch, hop], overlap [batch, sources, hop] -> out, next_overlap: the sum of all audio so far."""
    audio = helper.make_tensor_value_info("audio", F, ["batch", HOP])
    overlap = helper.make_tensor_value_info("overlap", F, ["batch", "sources", HOP])
    out = helper.make_tensor_value_info("out", F, ["batch", "sources", HOP])
    after = helper.make_tensor_value_info("next_overlap", F, ["batch", "sources", HOP])
    nodes = [
        helper.make_node("Unsqueeze", ["audio", "one"], ["each"]),
        helper.make_node("Add", ["overlap", "each"], ["next_overlap"]),
        helper.make_node("Identity", ["next_overlap"], ["out"]),
    ]
    ones = [constant("one", np.array([1], np.int64))]
    return helper.make_graph(nodes, "step", [audio, overlap], [out, after], ones)


def save_graph(graph, path, opset=20):
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    checker.check_model(model, full_check=True)
    save(model, path)
    return model


def _described(values):
    return [
        {
            "name": value.name,
            "shape": [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim],
            "dtype": "float32",
        }
        for value in values
    ]


def small_export(directory, **changes):
    """Writes it and returns the directory. changes: of export.json."""
    directory.mkdir(parents=True, exist_ok=True)
    dims = {"batch": [1, 4], "frames": [1, 3000], "sources": [1, 8]}
    graphs = {}
    for graph, state in ((model_graph(), []), (step_graph(), [["overlap", "next_overlap"]])):
        path = directory / f"{graph.name}.onnx"
        save_graph(graph, path)
        used = {size for one in _described(graph.input) for size in one["shape"]}
        graphs[graph.name] = {
            "file": path.name,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "inputs": _described(graph.input),
            "outputs": _described(graph.output),
            "state": state,
            "dims": {name: pair for name, pair in dims.items() if name in used},
        }
    manifest = {
        "format": "ussfast-export", "version": 1, "ussfast": "0.1.0", "kind": "onnx", "precision": "fp32", "opset": 20,
        "name": "small", "architecture": "causal", "config": {}, "parameters": 1, "sample_rate": 8000, "hop": HOP,
        "latency_samples": HOP, "labels": ["speech"], "graphs": graphs,
    }  # fmt: skip
    (directory / "export.json").write_text(json.dumps(manifest | changes))
    return directory


def export_again(directory):
    """Another file of the same graph `step`: protobuf takes an empty doc_string for none."""
    path, manifest = directory / "step.onnx", json.loads((directory / "export.json").read_text())
    path.write_bytes(path.read_bytes() + b"\x32\x00")
    manifest["graphs"]["step"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    (directory / "export.json").write_text(json.dumps(manifest))
