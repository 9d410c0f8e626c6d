"""Graphs of our models consist of what TensorRT's parser takes, and compute what the models do.

Here are those with operators that no other model has.
"""

import onnxruntime
import pytest
import torch
from golden_detectors import golden_detector
from tiny import CAUSAL, TUSS_SFC, tiny_model

from ussfast.export.graphs import Limits, graphs_of
from ussfast.export.onnx_graph import to_onnx
from ussfast.export.supported import report, unsupported

LIMITS = Limits(seconds=2, prompts=3, batch=2)
MODELS = {
    "tuss with adaptive sfc": lambda: (tiny_model(TUSS_SFC), "model"),
    "prompts of the causal model": lambda: (tiny_model(CAUSAL), "prompts"),
    "htsat": lambda: (golden_detector("htsat_tiny"), "model"),
    "cnn14 with steps": lambda: (golden_detector("cnn14_dlmax_tiny"), "model"),
}


@pytest.mark.parametrize("name", MODELS)
def test_tensorrt_takes_every_node(name):
    model, which = MODELS[name]()
    (graph,) = (graph for graph in graphs_of(model.eval(), "offline", LIMITS) if graph.name == which)
    proto = to_onnx(graph)
    assert unsupported(proto) == []
    assert sum(report(proto)["operators"].values()) == len(proto.graph.node)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, sources, frames in ((1, 1, 1), (2, 2, 20)):  # others than those of the trace
        given = graph.example(1, batch=batch, sources=sources, frames=frames, samples=9000)
        with torch.no_grad():
            wanted = graph.network(*given.values())
        found = session.run(None, {name: tensor.numpy() for name, tensor in given.items()})
        for ours, theirs in zip(wanted if isinstance(wanted, tuple) else (wanted,), found, strict=True):
            torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-4)
