"""Cnn14 against its published implementation (tests/golden/cnn14_*)."""

import zlib

import pytest
import torch
from golden_detectors import LEVEL, TAGS, detector, golden_detector, published_keys
from golden_io import arrays, assert_close, record

from ussfast.errors import InputError

TOLERANCE = 2e-5


@pytest.fixture(params=["as trained", "folded"])
def prepared(request):
    """Makes a golden detector run module by module, or with its norms folded."""

    def get(name):
        return golden_detector(name) if request.param == "as trained" else detector(name).fold()

    with torch.inference_mode():
        yield get


def check_block1(name, model, run):
    """conv_block1_rows: behind the pooling after the first block."""
    out, seen = record(model, ("blocks.0",), run)
    rows = torch.nn.functional.avg_pool2d(seen["blocks.0"][1], 2)[:, :, :3]
    assert_close(rows, arrays(name, "outputs")["conv_block1_rows"], TOLERANCE)
    return out


def test_tags_and_embedding(prepared):
    model, want = prepared(TAGS), arrays(TAGS, "outputs")
    audio = arrays(TAGS, "inputs")["wave"]
    found = check_block1(TAGS, model, lambda: model(audio))
    assert_close(found.tags, want["clipwise_output"], TOLERANCE)
    assert_close(found.embedding, want["embedding"], TOLERANCE)
    assert found.frames is None and model.embedding_dim == 128 and len(model.labels) == 13
    assert torch.equal(model.tag(audio), found.tags) and torch.equal(model.embed(audio), found.embedding)
    with pytest.raises(InputError, match="tags whole clips"):
        model.frames(audio)
    assert want.keys() == {"clipwise_output", "embedding", "logmel_first", "conv_block1_rows"}


def test_scores_over_time(prepared):
    model, want = prepared(LEVEL), arrays(LEVEL, "outputs")
    audio = arrays(TAGS, "inputs")["wave"]
    found = check_block1(LEVEL, model, lambda: model(audio))
    assert_close(found.tags, want["clipwise_output"], TOLERANCE)
    assert_close(found.frames, want["framewise_output"], TOLERANCE)
    assert torch.equal(model.frames(audio), found.frames) and model.frame_seconds == 0.01
    # 301 frames are nine steps of 32, and 13 more that have the scores of the ninth.
    assert torch.equal(found.frames[:, 256], found.frames[:, 300])
    assert not torch.equal(found.frames[:, 255], found.frames[:, 256])
    assert model.embed(audio).shape == (2, 128)
    assert want.keys() == {"clipwise_output", "framewise_output", "logmel_first", "conv_block1_rows"}


@pytest.mark.parametrize("name", [TAGS, LEVEL])
def test_shortest_clip(name):
    model = golden_detector(name)
    assert model.least_samples == 31 * 320
    with torch.inference_mode():
        found = model(torch.randn(1, 9920))
        assert found.tags.shape == (1, 13) and found.tags.isfinite().all()
        if found.frames is not None:
            assert found.frames.shape == (1, 32, 13)
        says = "a clip of 31 frames is too short: this detector needs 32, that is 0.31 s"
        with pytest.raises(InputError, match=says):
            model(torch.randn(1, 9919))


def full_rule():
    """The full-size state dict that README.txt of the folder describes: every tensor drawn from a seed of its key."""
    state = {}
    for key, shape in published_keys("cnn14").items():
        if "extractor" in key:
            continue
        r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
        elif key.endswith("running_var"):
            state[key] = 0.5 + r.abs()
        elif key.endswith(("running_mean", "bias")):
            state[key] = (0.3 if key.endswith("mean") else 0.1) * r
        else:
            state[key] = 1 + 0.2 * r if len(shape) == 1 else r * (2 / (r.numel() / shape[0])) ** 0.5
    state["bn0.running_mean"] -= 30
    state["bn0.running_var"] *= 150
    return state


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cnn14_full_rule", "cnn14_dlmax_full_rule"])
def test_full_size(name):
    model = detector(name, full_rule()).fold()
    want = arrays(name, "outputs")
    with torch.inference_mode():
        found = model(arrays("cnn14_full_rule", "inputs")["wave"])
    assert_close(found.tags, want["clipwise_output"], TOLERANCE)
    if "embedding" in want:
        assert_close(found.embedding, want["embedding"], TOLERANCE)
    else:
        assert list(found.frames.shape) == want["framewise_shape"].tolist()
        assert_close(found.frames[:, ::32], want["framewise_every32"], TOLERANCE)
