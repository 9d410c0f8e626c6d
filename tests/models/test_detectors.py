"""What all detectors share, on small ones with random weights: registry, directories, preparing, training."""

import copy
import json
import pickle
from dataclasses import replace

import pytest
import torch
from golden_detectors import LEVEL, TAGS, detector, golden_detector
from golden_io import arrays
from tiny import DETECTOR, tiny_detector, tiny_detector_directory, tiny_directory

from ussfast.checkpoints import names
from ussfast.checkpoints.building import Sparing
from ussfast.checkpoints.store import fill_detector, load_detector, read_info, save_model
from ussfast.errors import CheckpointError, InputError
from ussfast.models import architecture_of, build_detector, config_from_dict
from ussfast.models.config import to_dict
from ussfast.models.detectors import DETECTORS
from ussfast.models.detectors.presets import DETECTOR_PRESETS, detector_preset, random_detector

FRONT = DETECTOR.front
FACTS = {"name": "small", "license": "CC0-1.0", "source": {}}


@pytest.fixture
def small():
    return tiny_detector()


def test_both_registries_have_the_same_names():
    assert names.DETECTORS == tuple(DETECTORS)
    assert architecture_of(DETECTOR) == "cnn14"


@pytest.mark.parametrize("config", [DETECTOR, *DETECTOR_PRESETS.values()])
def test_configurations_survive_json(config):
    assert config_from_dict(architecture_of(config), json.loads(json.dumps(to_dict(config)))) == config


def test_directories(tmp_path, small):
    info = save_model(tmp_path / "small", small, **FACTS, dtype=torch.float16)
    state = torch.random.get_rng_state()
    model, found = load_detector(tmp_path / "small")
    assert torch.equal(torch.random.get_rng_state(), state), "loading drew random numbers"
    assert found == info == read_info(tmp_path / "small")
    assert info.labels == ("dog", "rain", "bell") and info.detects and info.sample_rate == 8000
    for key, value in model.state_dict().items():
        stored = small.state_dict()[key]
        trained = key in dict(small.named_parameters())
        assert torch.equal(value, stored.half().float() if trained else stored), key
    assert names.glance(tmp_path / "small", "x") is None
    assert names.glance(tiny_directory(tmp_path), "x").labels == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"channels": [4, 8, 16384]}, "a larger model than the weights"),
        ({"channels": [4, 8, 9]}, "wrong shape: blocks.2"),
        ({"channels": [4]}, "channels must have 2 to 8 entries"),
        ({"channels": [4] * 6}, "6 blocks need at least 32 mels, got 16"),
        ({"labels": ["dog", "dog", "bell"]}, "labels must differ, 'dog' is there twice"),
        ({"labels": []}, "labels must have 1 to 10000 entries"),
        ({"labels": ["a", "b"]}, r"wrong shape: out.weight \[3, 8\] instead of \[2, 8\]"),
        ({"front": to_dict(FRONT) | {"n_fft": 1 << 20}}, "n_fft must be 16 to 8192"),
        ({"pooling": "median"}, "pooling must be one of"),
        ({"more": 1}, "unknown .'more'"),
    ],
)
def test_directories_of_strangers(tmp_path, changes, says):
    directory = tiny_detector_directory(tmp_path)
    data = json.loads((directory / "config.json").read_text())
    data["config"] |= changes
    (directory / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match=says) as caught:
        load_detector(directory)
    assert str(caught.value).isprintable()


def test_what_a_detector_of_its_weights_needs_is_there(small):
    state = small.state_dict()
    with Sparing(len(state), sum(value.numel() for value in state.values())):
        build_detector(DETECTOR)


def test_preparing_changes_nothing_but_the_time():
    model, audio = detector(LEVEL), arrays(TAGS, "inputs")["wave"]
    with torch.inference_mode():
        want = golden_detector(LEVEL)(audio)
        assert torch.allclose(model.fold()(audio).frames, want.frames, atol=1e-6)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.allclose(copied.fold()(audio).frames, want.frames, atol=1e-6)
        narrow = model.fold(torch.bfloat16)(audio)
        assert narrow.frames.dtype == torch.float32
        assert torch.allclose(narrow.frames, want.frames, atol=0.02) and not torch.equal(narrow.frames, want.frames)
        # Other weights, or training, and what was folded is forgotten.
        model.load_state_dict({k: torch.zeros_like(v) for k, v in model.state_dict().items()})
        assert (model(audio).tags == 0.5).all()
    model.fold().train()
    assert all(module._prepared is None for module in model.modules() if hasattr(module, "_prepared"))


def test_it_learns():
    """Gradients reach every weight, also after preparing, and a few steps tell two sounds apart."""
    time = torch.arange(8000) / 8000
    audio = torch.stack([torch.sin(2 * torch.pi * 440 * time), torch.randn(8000)])
    target = torch.tensor([[1.0, 0, 0], [0, 1.0, 0]])
    model = tiny_detector(replace(DETECTOR, channels=(8, 16, 32))).fold().train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(60):
        loss = torch.nn.functional.binary_cross_entropy(model.tag(audio), target)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_autocast_leaves_scores_in_float32(small):
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        assert {small(torch.randn(1, 8000)).tags.dtype} == {torch.float32}


def test_mean_pooling_is_the_mean_of_the_steps(small):
    audio = torch.randn(2, 80 * 39)  # ten steps of four frames
    mean = tiny_detector(replace(DETECTOR, pooling="mean"))
    mean.load_state_dict(small.state_dict())
    with torch.inference_mode():
        found, other = mean(audio), small(audio)
    assert torch.equal(found.frames, other.frames) and found.frames.shape == (2, 40, 3)
    steps = found.frames[:, ::4]
    assert torch.allclose(found.tags, steps.mean(1)) and torch.equal(other.tags, steps.amax(1))


@pytest.mark.parametrize("extra", [0, 1, 319])
def test_the_last_frames_have_the_scores_of_the_last_step(small, extra):
    with torch.inference_mode():
        frames = small.frames(torch.randn(1, 80 * 43 + extra))[0]
    assert len(frames) == 44 + extra // 80
    assert (frames[40:] == frames[40]).all() and (frames[36] != frames[40]).any()


def test_presets():
    assert random_detector("cnn14-16k", 3).config.sample_rate == 16000
    with pytest.raises(InputError, match="did you mean cnn14"):
        detector_preset("cnn15")
    with pytest.raises(InputError, match="preset of a detector .*; there are cnn14, cnn14-16k, cnn14-dlmax"):
        detector_preset("zzz")


def test_weights_of_a_detector_that_are_not_numbers(small):
    state = small.state_dict()
    state["blocks.0.0.norm.running_var"][0] = torch.nan
    with pytest.raises(CheckpointError, match="not finite: blocks.0.0.norm.running_var"):
        fill_detector(DETECTOR, state, "x")
