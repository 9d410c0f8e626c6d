"""The front end of detectors against the published one (tests/golden/cnn14_*)."""

import pytest
import torch
from golden_io import arrays, assert_close, weights

from ussfast.errors import InputError
from ussfast.models.detectors.log_mel import LogMel, LogMelConfig, mel_bands

TOLERANCE = 2e-5


@pytest.mark.parametrize("name", ["cnn14_tiny", "cnn14_dlmax_tiny"])
def test_bands_and_decibels_are_the_published_ones(name):
    assert_close(mel_bands(LogMelConfig()), weights(name)["logmel_extractor.melW"], 1e-6)
    found = LogMel(LogMelConfig())(arrays("cnn14_tiny", "inputs")["wave"])  # the same for both
    assert found.shape == (2, 301, 64)
    assert_close(found[0, :12], arrays(name, "outputs")["logmel_first"], TOLERANCE)


def test_nothing_of_it_is_saved():
    assert not LogMel(LogMelConfig()).state_dict()


def test_a_sine_is_in_the_band_of_its_pitch_and_silence_is_the_floor():
    config = LogMelConfig(sample_rate=16000, n_fft=512, hop=160, fmin=0.0, fmax=8000.0, mels=40)
    bands, pitch = mel_bands(config), 3000.0
    sine = torch.sin(2 * torch.pi * pitch / 16000 * torch.arange(16000))
    loud = LogMel(config)(torch.stack([sine, torch.zeros(16000)]))
    at = bands[round(pitch * 512 / 16000)].argmax()
    assert (loud[0, 5:-5].argmax(-1) == at).all()
    assert (loud[1] == -100).all()
    # Slaney's triangles have an area of one.
    assert torch.allclose(bands.sum(0) * 16000 / 512, torch.ones(40), atol=0.1)


@pytest.mark.parametrize("samples", [1, 319, 320, 512, 513, 1000])
def test_every_length_has_frames(samples):
    config = LogMelConfig()
    found = LogMel(config)(torch.randn(1, samples))
    assert found.shape == (1, config.frame_count(samples), 64) and found.isfinite().all()
    assert found.shape[1] == max(samples, 513) // 320 + 1
    assert config.frame_seconds == 0.01


def test_bfloat16_does_not_reach_the_front_end():
    audio, front = torch.randn(1, 4000), LogMel(LogMelConfig())
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(front(audio), front(audio))
        cast = front(audio)
    assert cast.dtype == torch.float32 and torch.equal(cast, front(audio))


@pytest.mark.parametrize("shape", [(4000,), (1, 2, 4000), (1, 0)])
def test_other_shapes_are_refused(shape):
    with pytest.raises(InputError, match=r"detectors take audio \[clips, samples\], got"):
        LogMel(LogMelConfig())(torch.zeros(shape))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fmax": 16001.0}, "need fmin < fmax <= half of the sample rate 32000, got 50 and 16001"),
        ({"fmin": 14000.0}, "need fmin < fmax"),
        ({"hop": 2000}, "hop <= window_length"),
        ({"mels": 0}, "mels must be 1 to 512"),
        ({"n_fft": 1 << 20}, "n_fft must be 16 to 8192"),
    ],
)
def test_impossible_sizes(change, says):
    with pytest.raises(InputError, match=says):
        LogMelConfig(**change)
