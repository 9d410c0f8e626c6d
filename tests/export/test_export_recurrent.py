"""ChimeraNets as graphs: recurrent layers are one operator each, for any number of frames."""

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from chimera_models import random_chimera

from ussfast import Separator
from ussfast.errors import InputError
from ussfast.export import Limits, aoti, export_onnx
from ussfast.export.recurrent import Layers
from ussfast.export.supported import unsupported

LIMITS = Limits(seconds=1.0, batch=3)
RATE = 8000


@pytest.mark.parametrize("cell", [torch.nn.LSTM, torch.nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_every_layer_keeps_all_of_its_weights(cell, both):
    rnn = cell(5, 3, 2, batch_first=True, bidirectional=both)
    kept = torch.cat([value.flatten() for value in Layers(rnn).buffers()])
    assert torch.equal(kept.sort().values, torch.cat([p.detach().flatten() for p in rnn.parameters()]).sort().values)


@pytest.mark.parametrize(
    "changes",
    [{}, {"cell": "gru", "bidirectional": False, "norm": "instance", "mask_activation": ("softmax",)}],
    ids=["LSTM", "GRU of one direction"],
)
def test_graphs_give_what_the_model_gives(tmp_path, changes):
    """At one frame and at more than were traced, held to PyTorch by the check, and through a separator."""
    model = random_chimera(labels=("a", "b"), **changes)
    export_onnx(model, tmp_path / "out", limits=LIMITS, check=True)
    proto = onnx.load(tmp_path / "out" / "model.onnx")
    assert Counter(node.op_type for node in proto.graph.node)[changes.get("cell", "lstm").upper()] == 2
    assert unsupported(proto) == []
    audio, settings = np.random.default_rng(0).normal(0, 0.1, (1, 9000)).astype(np.float32), {"segment": 0.9}
    here, there = Separator.from_model(model, device="cpu", **settings), Separator(tmp_path / "out", **settings)
    assert there.info.labels == ("a", "b")
    found, wanted = there.separate(audio, RATE).stems, here.separate(audio, RATE).stems
    assert np.abs(found - wanted).max() <= 1e-4 * np.abs(wanted).max()


def test_with_transforms_inside_in_another_precision(tmp_path):
    export_onnx(random_chimera(), tmp_path / "out", precision="fp16", with_stft=True, limits=LIMITS, check=True)


def test_what_has_no_graph(tmp_path):
    with pytest.raises(InputError, match="only masks can be exported"):
        export_onnx(random_chimera(masks=False), tmp_path / "out")
    with pytest.raises(InputError, match="no recurrent layers for any number of frames: use ONNX"):
        aoti.export_aoti(random_chimera(), tmp_path / "out")
    assert not (tmp_path / "out").exists()
