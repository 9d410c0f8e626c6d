"""A Separator of ChimeraNets: masks in windows, clusters in windows, and networks that carry on."""

import numpy as np
import pytest
import torch
from chimera_models import random_chimera, tiny
from golden_io import arrays, assert_close

from ussfast import Separator
from ussfast.checkpoints.store import save_model

RATE = 8000


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(0).normal(0, 0.1, (2, 5 * RATE)).astype(np.float32)


def opened(model, **settings):
    return Separator.from_model(model, device="cpu", **settings)


def whole(model, audio):
    with torch.inference_mode():
        return model.separate(torch.from_numpy(audio), None).transpose(0, 1).numpy()


def test_a_short_recording_is_what_was_recorded():
    mix, wanted = arrays("chimera_tiny", "inputs")["mix"], arrays("chimera_tiny", "outputs")["source_waves"]
    found = opened(tiny()).separate(mix.numpy(), RATE)
    assert found.labels == ("source-1", "source-2")
    assert_close(torch.from_numpy(found.stems[:, 0]), wanted, 2e-5)


def test_labels(noise):
    found = opened(random_chimera(labels=("bass", "rest"))).separate(noise[:1, :RATE], RATE)
    assert found.labels == ("bass", "rest") and np.isfinite(found["rest"]).all()


def test_windows_join(noise):
    separator = opened(tiny(), segment=2.0, overlap=1.0)
    found, wanted = separator.separate(noise, RATE).stems, whole(tiny(), noise)
    apart = [np.square(found - w).sum() / np.square(w).sum() for w in (wanted, wanted[::-1])]
    assert apart[0] < 0.01 and apart[1] > 4 * apart[0], apart


@pytest.mark.parametrize("settings", [{}, {"channels": "linked"}], ids=["independent", "linked"])
@pytest.mark.parametrize("labels", [(), ("a", "b")], ids=["free order", "labels"])
@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_one_direction_carries_on(noise, cell, labels, settings):
    """In pieces of half a second it is as exact as at once: no window has any part in it."""
    model = random_chimera(bidirectional=False, cell=cell, labels=labels)
    shared = bool(settings) or not labels
    found = opened(model, segment=0.5, **settings).separate(noise, RATE).stems
    with torch.inference_mode():
        wanted = model.separate(torch.from_numpy(noise)[None], None)[0].numpy() if shared else whole(model, noise)
    np.testing.assert_allclose(found, wanted, atol=2e-6)


def test_what_does_not_carry_on():
    assert random_chimera(bidirectional=False).carries_on
    for changes in ({"bidirectional": True}, {"norm": "instance"}, {"masks": False}):
        assert not random_chimera(**{"bidirectional": False} | changes).carries_on


@pytest.mark.parametrize("size", [1, 127, 1000])
@pytest.mark.parametrize("samples", [1, 64, 1001])
def test_recordings_and_pieces_of_any_length(noise, samples, size):
    """Straight through the engine, which asks for no length of its blocks."""
    model = random_chimera(bidirectional=False)
    engine, audio = (separator := opened(model, segment=0.1)).engine, noise[:1, :samples]
    blocks = [audio[:, at : at + size] for at in range(0, samples, size)]
    parts = list(engine.separate(iter(blocks), separator._plan(), engine.policy))
    np.testing.assert_allclose(np.concatenate(parts, -1), whole(model, audio), atol=2e-6)


def test_clusters_of_a_long_recording(noise):
    """Tones that embeddings tell apart stay on their stems over many windows, whatever the order of clusters was."""
    t = 2 * np.pi * np.arange(6 * RATE) / RATE
    tones = np.stack([np.sin(f * t) * (1 + np.sin(f / 500 * t)) for f in (500, 2500)])
    model = random_chimera(masks=False, embedding=2, embedding_activation=("unit_norm",), hidden=1, layers=1)
    with torch.no_grad():  # whatever comes in, low bins are here and high ones there
        for value in model.parameters():
            value.zero_()
        model.embedding.bias.view(65, 2)[:24, 0] = 1.0
        model.embedding.bias.view(65, 2)[24:, 1] = 1.0
    mixture = (0.1 * tones.sum(0) + 0.001 * noise[0, 0]).astype(np.float32)
    stems = opened(model, segment=1.0, overlap=0.4).separate(mixture, RATE).stems[:, 0]
    order = [0, 1] if abs(np.vdot(stems[0], tones[0])) > abs(np.vdot(stems[0], tones[1])) else [1, 0]
    for stem, tone in zip(stems[order], 0.1 * tones, strict=True):
        for part in np.split(np.abs(stem - tone)[200:-200][: 5 * RATE], 5):
            assert part.max() < 0.02


def test_a_model_directory_and_a_stream(noise, tmp_path):
    model = random_chimera(bidirectional=False, labels=("a", "b"))
    save_model(tmp_path / "m", model, name="small", license="none", source={})
    separator = Separator(tmp_path / "m", device="cpu")
    found = separator.separate(noise, RATE)
    np.testing.assert_allclose(found.stems, opened(model).separate(noise, RATE).stems, atol=1e-6)
    pieces = list(separator.stream([noise[:, :9000], noise[:, 9000:20000]], RATE))
    assert sum(piece.mixture.shape[1] for piece in pieces) == 20000
    assert (separator.info.architecture, separator.info.labels) == ("chimera", ("a", "b"))
