"""Whole models on a GPU against plain PyTorch: presets with random weights, the embedded model on real audio."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import TUSS, tiny_model

import ussfast.demo
from ussfast import Separator
from ussfast.audio import read
from ussfast.evaluate.metrics import si_sdr
from ussfast.models.presets import PRESETS

pytestmark = [
    pytest.mark.gpu,
    # Kernels and models on the device itself; elsewhere the interpreter's tests stand in.
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
PROMPTS = ("speech", "sfxbg")
FLOAT32, BF16, SI_SDR_DB = 1e-4, 2e-2, 0.05  # of the peak; decibels
DEMO = Path(ussfast.demo.__file__).parent


def peak_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


def demo_stems(**settings):
    separator = Separator("default", PROMPTS, **settings)
    return separator.separate(DEMO / "mixture.flac").stems


@pytest.mark.parametrize(
    "name", ["tuss-medium", "tuss-large", "tflocoformer-s", "sfc-musdb18hq-small", "sfc-dnr-medium"]
)
def test_presets_equal_plain_pytorch(name):
    channels = 2 if "musdb" in name else 1
    stems = {}
    for backend in ("reference", "native"):
        prompts = PROMPTS if hasattr(PRESETS[name], "prompts") else ()
        separator = Separator.from_preset(name, prompts, device="cuda", backend=backend)
        noise = np.random.default_rng(1).normal(0, 0.1, (channels, 2 * separator.sample_rate)).astype(np.float32)
        stems[backend] = separator.separate(noise, separator.sample_rate).stems
    assert peak_error(stems["native"], stems["reference"]) <= FLOAT32


def test_real_audio_equals_the_cpu():
    expected = demo_stems(device="cpu")
    assert peak_error(demo_stems(device="cuda"), expected) <= FLOAT32
    assert peak_error(demo_stems(device="cuda", backend="reference"), expected) <= FLOAT32


def test_bf16_changes_real_audio_by_little():
    exact, rounded = (demo_stems(device="cuda", dtype=dtype) for dtype in ("float32", "bf16"))
    assert 0 < peak_error(rounded, exact) <= BF16
    for stem, (one, other) in zip(PROMPTS, zip(exact, rounded, strict=True), strict=True):
        reference = read(DEMO / f"{stem}.flac")[0]
        assert abs(si_sdr(other, reference) - si_sdr(one, reference)) < SI_SDR_DB


def test_a_stream_equals_the_whole():
    separator = Separator("default", PROMPTS, device="cuda")
    mixture, rate = read(DEMO / "mixture.flac")
    mixture = mixture[:, : 4 * rate]
    chunks = np.array_split(mixture, 37, -1)
    parts = [part.stems for part in separator.stream(chunks, sample_rate=rate)]
    whole = separator.separate(mixture, rate).stems
    assert np.abs(np.concatenate(parts, -1) - whole).max() <= 1e-4


@pytest.mark.parametrize("name", ["default", "tuss"])
def test_gradients_of_prompts_equal_plain_pytorch(name):
    """What prompt tuning computes: frozen weights, a gradient through the whole network."""
    mixture = read(DEMO / "mixture.flac")[0]
    gradients = {}
    for backend in ("reference", "native"):
        settings = {"prompts": PROMPTS, "device": "cuda", "backend": backend}
        made = Separator(name, **settings) if name == "default" else Separator.from_model(tiny_model(TUSS), **settings)
        network = made.engine.model.requires_grad_(False)
        prompts = network.prompt_vectors(PROMPTS).detach().clone().requires_grad_()
        audio = torch.from_numpy(mixture[:1, : 2 * made.sample_rate]).cuda()
        with ussfast.ops.use_reference(backend == "reference"):
            network.separate(audio, prompts).square().mean().backward()
        gradients[backend] = prompts.grad.cpu().numpy()
    assert peak_error(gradients["native"], gradients["reference"]) <= 1e-3
