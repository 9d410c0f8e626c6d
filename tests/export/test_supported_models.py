"""Graphs of our models consist of what TensorRT's parser takes; here those with operators of their own."""

import pytest
from golden_detectors import golden_detector
from tiny import CAUSAL, STEREO, tiny_model

from ussfast.export.graphs import Limits, graphs_of
from ussfast.export.onnx_graph import to_onnx
from ussfast.export.supported import report, unsupported

LIMITS = Limits(seconds=2, prompts=3, batch=2)
MODELS = {
    "sfc of two channels": lambda: (tiny_model(STEREO), "model"),
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
