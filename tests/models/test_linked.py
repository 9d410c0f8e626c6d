"""One spectrum for all channels: nothing vanishes, and masks are shared."""

import pytest
import torch
from golden_io import golden_model
from tiny import CAUSAL, RATE, TUSS, TUSS_SFC, UNCONDITIONAL, noise, tiny_model

from ussfast import InputError, Separator
from ussfast.models._linked import linked


def spectra(*shape):
    return torch.randn(*shape, dtype=torch.complex64)


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_one_channel_is_itself():
    spec = spectra(1, 3, 5)
    assert torch.equal(linked(spec, 0), spec[0])


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_equal_and_opposite_channels_are_one_of_them(channels):
    one = spectra(4, 7)
    close(linked(torch.stack([one] * channels, 1), 1), one)
    close(linked(torch.stack([one] + [-one] * (channels - 1), 1), 1), one)


@pytest.mark.parametrize("channels", [2, 3, 6])
def test_the_level_is_that_of_all_channels(channels):
    spec = spectra(channels, 4, 7)
    spec[0, :2] = 0  # the one that the phase begins with
    close(linked(spec, 0).abs(), spec.abs().square().mean(0).sqrt())
    assert not linked(spec * 0, 0).any()


def test_a_panned_sound_keeps_its_level_and_phase():
    one = spectra(4, 7)
    for angle in torch.linspace(0, torch.pi, 8):
        pair = torch.stack([one * angle.cos(), one * angle.sin()])
        # The first channel's phase, whatever that of the second.
        close(linked(pair, 0), one * (1 if angle.cos() > 0 else -1) / 2**0.5)


@pytest.mark.parametrize("config", [CAUSAL, TUSS, TUSS_SFC, UNCONDITIONAL])
def test_channels_get_the_same_masks(config):
    """Scaled and inverted channels of one sound: so are the stems."""
    model = tiny_model(config).eval()
    prompts = model.prompt_vectors(("speech", "sfx")) if model.prompt_names else None
    one, gains = torch.from_numpy(noise(1, 30000)), torch.tensor([[0.3], [-0.8], [0.0]])
    one -= one.mean()
    with torch.inference_mode():
        whole = model.separate((one * gains)[None], prompts)
        # The root of the mean power of the channels, as a sound of its own.
        level = gains.square().mean().sqrt()
        alone = model.separate(one * level, prompts)
    # Levels divide by the number of samples less one, which is another for three channels: 2e-5 of the level.
    torch.testing.assert_close(whole[0], alone[0][:, None] * (gains / level), rtol=1e-4, atol=1e-5)


def test_different_channels_get_the_masks_of_both():
    model, audio = tiny_model(TUSS).eval(), torch.from_numpy(noise(2, 3000))[None]
    prompts = model.prompt_vectors(("speech", "sfx"))
    with torch.inference_mode():
        both = model.separate(audio, prompts)
        each = model.separate(audio[0], prompts).transpose(0, 1)[None]
        more = model.separate(torch.cat((audio, audio.flip(1))), prompts)
    close(more[:1], both)
    assert (both - each).abs().max() > 1e-3


def test_a_model_without_masks_refuses():
    model = golden_model("tflocoformer_tiny")
    with pytest.raises(InputError, match=r"separates audio \[batch, samples\], got \[1, 2, 900\]"):
        model.separate(torch.from_numpy(noise(2, 900))[None], None)
    with pytest.raises(InputError, match="spectra, not masks"):
        Separator.from_model(model, channels="linked", device="cpu")
    assert Separator.from_model(model, device="cpu").separate(noise(2, 900), RATE).stems.shape[1:] == (2, 900)
