"""What was equal in the example by chance."""

import pytest
import torch
from torch import nn

from ussfast.export.equal_sizes import taken_for_equal
from ussfast.export.graphs import Graph
from ussfast.export.onnx_graph import trace


class Compared(nn.Module):
    """Asks whether the frames, padded to four, are three more than they are: so it is at 1, 5 and 9."""

    def forward(self, x, y):
        padded = (x.shape[1] + 3) // 4 * 4
        if padded == x.shape[1] + 3:
            return x + y
        return x - y


class Alike(nn.Module):
    def forward(self, x, y):
        return x + y


def graph_of(network, most=20):
    shape = "batch", "frames", 2
    dims = {"batch": (1, 3), "frames": (1, most)}
    return Graph("model", network, {"x": shape, "y": shape}, {"out": shape}, dims)


@pytest.mark.parametrize("frames, found", [(9, True), (11, False)])
def test_what_is_equal_by_chance_is_found(frames, found):
    """With 11 frames the question has the answer that is right at most sizes, and is no equality."""
    graph = graph_of(Compared())
    assert bool(taken_for_equal(trace(graph, frames=frames), graph)) is found


def test_inputs_of_equal_sizes_are_no_chance():
    graph = graph_of(Alike())
    assert taken_for_equal(trace(graph), graph) == []


def test_sizes_in_steps():
    """Eight hops of 10 samples: whether they are a multiple of 20 is a chance, of 10 none."""

    class Even(nn.Module):
        def forward(self, audio):
            half = audio.unflatten(1, (-1, 10))
            return half * 2 if half.shape[0] + half.shape[1] // 2 * 2 == half.shape[0] + half.shape[1] else half

    dims = {"batch": (1, 2), "samples": (20, 160)}
    graph = Graph(
        "model", Even(), {"audio": ("batch", "samples")}, {"out": ("batch", "samples")}, dims, steps={"samples": 10}
    )
    assert taken_for_equal(trace(graph, samples=80), graph)
    assert not taken_for_equal(trace(graph, samples=70), graph)
    assert torch.equal(Even()(torch.ones(1, 30)), torch.ones(1, 3, 10))
