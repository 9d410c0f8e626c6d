"""The conventional band-split TF-Locoformer against its published implementation (tests/golden/bslocoformer_tiny)."""

import torch
from golden_io import arrays, assert_close, golden_model, implementation, record, settings  # noqa: F401

from ussfast.models.band_split import tuss_bands


def test_waveforms_and_every_intermediate(implementation):  # noqa: F811
    name = "bslocoformer_tiny"
    model, audio, want = golden_model(name), arrays(name, "inputs")["mix"], arrays(name, "outputs")
    before, frames = audio.clone(), want["frames"]
    wave, seen = record(model, ("", "encoder"), lambda: model.separate(audio, None))
    assert torch.equal(audio, before)
    assert wave.shape == (2, 3, audio.shape[-1])
    assert_close(wave, want["wav"][..., : audio.shape[-1]], 5e-4)
    assert_close(seen[""][0][:, frames], want["stft_frames"], 1e-4)
    assert_close(seen["encoder"][1][:, frames].permute(0, 3, 1, 2), want["band_split_frames"], 1e-4)
    separated = torch.view_as_complex(seen[""][1]) * seen[""][0][:, None]
    assert_close(separated[:, :, frames], want["sep_out_frames"], 1e-4)
    assert want.keys() == {"wav", "frames", "stft_frames", "band_split_frames", "sep_out_frames"}


def test_bands():
    assert list(tuss_bands(48000, 513)) == settings("bslocoformer_tiny")["bands"]
    assert tuss_bands(48000, 1025) == (*[2] * 22, *[4] * 11, *[12] * 8, *[24] * 8, *[48] * 8, 66, 66, 66, 67)
    assert tuss_bands(44100, 1025) == (*[2] * 24, *[4] * 12, *[12] * 8, *[24] * 8, *[48] * 8, 128, 129)
