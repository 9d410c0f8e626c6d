"""TF-Locoformer against its published implementation (tests/golden/tflocoformer_tiny)."""

import pytest
import torch
from golden_io import arrays, assert_close, golden_model, implementation, record  # noqa: F401

NAME, TOLERANCE = "tflocoformer_tiny", 3e-5


def test_spectrum_and_every_intermediate(implementation):  # noqa: F811
    model, spec, want = golden_model(NAME), arrays(NAME, "inputs")["spec"], arrays(NAME, "outputs")
    frames = want["frames"]
    modules = ("norm", "stack.blocks.0", f"stack.blocks.{len(model.stack.blocks) - 1}")
    out, seen = record(model, modules, lambda: model(spec, None))
    assert_close(torch.view_as_complex(out.contiguous()), want["spec"], TOLERANCE)
    assert_close(seen["norm"][1][:, :, frames], want["conv_frames"], TOLERANCE)
    for module, key in zip(modules[1:], ("block0_frames", "blocklast_frames"), strict=True):
        assert_close(seen[module][1][:, frames].permute(0, 3, 1, 2), want[key], TOLERANCE)
    assert want.keys() == {"spec", "wav", "frames", "conv_frames", "block0_frames", "blocklast_frames"}


def test_waveform(implementation):  # noqa: F811
    model, given, want = golden_model(NAME), arrays(NAME, "inputs"), arrays(NAME, "outputs")
    before = given["mix"].clone()
    wave, seen = record(model, ("",), lambda: model.separate(given["mix"], None))
    assert torch.equal(given["mix"], before)
    assert wave.shape[-1] == given["mix"].shape[-1]
    assert_close(seen[""][0], given["spec"], TOLERANCE)
    assert_close(wave, want["wav"], TOLERANCE)


@pytest.mark.parametrize("samples", [2, 64, 65, 127, 129, 1000])
def test_output_is_as_long_as_the_input(samples):
    audio = arrays(NAME, "inputs")["mix"][:, 1000 : 1000 + samples]
    with torch.inference_mode():
        wave = golden_model(NAME).separate(audio, None)
    assert wave.shape == (2, 2, samples)
    assert wave.isfinite().all()
