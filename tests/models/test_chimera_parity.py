"""ChimeraNet against recorded outputs of its publisher's modules."""

import pytest
import torch
from chimera_models import tiny
from golden_io import arrays, assert_close

from ussfast import stft

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def given():
    return arrays("chimera_tiny", "inputs")


@pytest.fixture(scope="module")
def wanted():
    return arrays("chimera_tiny", "outputs")


def test_the_transform_is_that_of_scipy(given):
    spec = stft.analyze(given["mix"][None], tiny().config.stft)
    assert_close(spec.abs()[0], given["mix_magnitude"], TOLERANCE)


def test_normalised_decibels_and_the_recurrent_stack(given, wanted):
    model, magnitude = tiny(), given["mix_magnitude"][None]
    with torch.inference_mode():
        normed, (features, _) = model.normed(magnitude), model.features(magnitude)
    decibels = 20 * magnitude[0, :8].clamp(min=1e-4).log10()
    assert_close(decibels, wanted["log_spectrogram"], TOLERANCE)
    assert_close(normed[0, :8], wanted["normalized"], TOLERANCE)
    assert_close(features[0, [0, 1, -1]], wanted["rnn_out"], TOLERANCE)


def test_heads(given, wanted):
    with torch.inference_mode():
        embedding, mask = tiny().heads(given["mix_magnitude"][None])
    assert_close(embedding[0], wanted["embedding"], TOLERANCE)
    assert_close(mask[0], wanted["mask"], TOLERANCE)
    assert_close(mask[0] * given["mix_magnitude"][..., None], wanted["estimates"], TOLERANCE)


def test_waveforms(given, wanted):
    with torch.inference_mode():
        waves = tiny().separate(given["mix"][None], None)
    assert_close(waves[0], wanted["source_waves"], TOLERANCE)
