"""The ASP U-Net against its published implementation (tests/golden/zeroshot_unet_*)."""

import copy
import json
import zlib

import pytest
import torch
from golden_io import GOLDEN, arrays, assert_close, golden_model, record, settings

from ussfast import stft
from ussfast.checkpoints.store import fill
from ussfast.convert import zeroshot
from ussfast.convert._yaml import Table
from ussfast.errors import InputError, PromptError
from ussfast.models._packed import prepare
from ussfast.models.asp_unet import AspUnetConfig
from ussfast.models.presets import preset
from ussfast.stft import StftConfig

NAME, TOLERANCE = "zeroshot_unet_tiny", 2e-5


@pytest.fixture(params=["plain", "folded"])
def model(request):
    found = copy.deepcopy(golden_model(NAME))
    if request.param == "folded":
        prepare(found, "float32")
    return found


def masked(model, audio, prompts):
    """Magnitudes of the separated spectrum, [sources, frames, bins]."""
    spec = stft.analyze(audio, model.config.stft)
    return model(spec, prompts)[0, ..., 0] * spec.abs()


def test_waveforms(model):
    given, want = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    with torch.inference_mode():
        a = model.separate(given["mix_a"], given["condition"])
        b = model.separate(given["mix_b"], given["condition"][:1])
    assert_close(a[0], want["wav_a"], TOLERANCE)
    assert_close(b[0], want["wav_b"], TOLERANCE)
    assert given["mix_b"].shape[-1] % 320


def test_spectra_with_the_highest_bin(model):
    given, want = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    with torch.inference_mode():
        a = masked(model, given["mix_a"], given["condition"])
        b = masked(model, given["mix_b"], given["condition"][:1])
        spec = stft.analyze(given["mix_a"], model.config.stft)
        mask = model(spec, given["condition"])
    assert_close(a[:, want["frames_a"]], want["sp_a_frames"], TOLERANCE)
    assert_close(b[:, want["frames_b"]], want["sp_b_frames"], TOLERANCE)
    assert_close(spec.abs()[0, want["frames_a"]], want["mag_a_frames"], TOLERANCE)
    # A tolerance of the largest value would not see this bin, which is soft.
    assert (mask[..., -1, 0] == 0.5).all() and not mask[..., 1].any()
    quiet = want["sp_a_frames"][..., -1]
    torch.testing.assert_close(a[:, want["frames_a"], -1], quiet, rtol=1e-3, atol=1e-6)


def test_intermediates(model):
    given, want = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    names = ("bin_norm", "encoder.0.second", "center.second", "decoder.0.block.second")
    first = given["condition"][:1]
    _, seen = record(model, names, lambda: masked(model, given["mix_a"], first))
    assert_close(seen["bin_norm"][1][0, want["frames_a"]], want["bn0_a_frames"], TOLERANCE)
    for name, key in zip(names[1:], ("enc1_a", "center_a", "dec1_a"), strict=True):
        assert_close(seen[name][1][:1, :, 0, : want[key].shape[-1]], want[key][:1], TOLERANCE)


def test_logits(model):
    given, want = arrays(NAME, "inputs"), arrays(NAME, "outputs")
    with torch.inference_mode():
        magnitude = stft.analyze(given["mix_a"], model.config.stft).abs()
        logits = model._logits(magnitude, model.condition(given["condition"]).rows[None])
    frames = [frame for frame in want["frames_a"].tolist() if frame < logits.shape[2]]
    assert_close(logits[0][:, frames], want["logit_a_frames"].view(2, -1, 1024)[:, : len(frames)], TOLERANCE)


@pytest.mark.parametrize("samples", [2, 320, 1023, 1024, 1025, 20479, 20480, 20481])
def test_output_is_as_long_as_the_input(model, samples):
    given = arrays(NAME, "inputs")
    with torch.inference_mode():
        wave = model.separate(given["mix_b"][:, 5000 : 5000 + samples], given["condition"])
    assert wave.shape == (1, 2, samples)
    assert wave.isfinite().all()


def test_a_conditioning_is_the_prompts(model):
    given = arrays(NAME, "inputs")
    with torch.inference_mode():
        spec = stft.analyze(given["mix_b"], model.config.stft).expand(2, -1, -1)
        once = model(spec, given["condition"])
        # The same for the batch, or each item's own.
        each = model(spec, given["condition"].expand(2, -1, -1))
        ahead = model(spec, model.condition(given["condition"]))
    assert_close(each, once, TOLERANCE)
    assert_close(ahead, once, TOLERANCE)


def test_frames_that_are_filled_up_are_zeros_behind_the_norm(model):
    given = arrays(NAME, "inputs")
    with torch.inference_mode():
        magnitude = stft.analyze(given["mix_a"], model.config.stft).abs()[:, :100]
        rows = model.condition(given["condition"][:1]).rows[None]
        own = model._logits(magnitude, rows)
        normed = torch.nn.functional.pad(model.bin_norm(magnitude), (0, 0, 0, 28))
        silent = model.bin_norm(torch.nn.functional.pad(magnitude, (0, 0, 0, 28)))
        right, wrong = (model._rows(x[:, None, :, :-1], rows[0], 100) for x in (normed, silent))
    assert_close(own[0], right, TOLERANCE)
    assert (own[0] - wrong).abs().max() > 0.01 * own.abs().max()


def test_folding_leaves_weights_alone_and_training_drops_it():
    plain = golden_model(NAME)
    found = copy.deepcopy(plain)
    prepare(found, "float32")
    assert found.state_dict().keys() == plain.state_dict().keys()
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in plain.state_dict().items())
    assert all(layer._prepared is not None for layer in found.layers())
    copied = copy.deepcopy(found)
    assert all(layer._prepared is None for layer in copied.layers())
    found.train()
    assert all(layer._prepared is None for layer in found.layers())


def test_gradients_reach_every_weight():
    found = copy.deepcopy(golden_model(NAME)).train()
    given = arrays(NAME, "inputs")
    audio = torch.stack((given["mix_b"][0], given["mix_a"][0][: given["mix_b"].shape[1]]))
    out = found.separate(audio, given["condition"][:, None])
    out.abs().mean().backward()
    unused = [name for name, p in found.named_parameters() if p.grad is None or not p.grad.any()]
    # The highest bin is normed, but not seen.
    assert unused == [] and out.shape[:2] == (2, 1)


def test_bfloat16_is_near():
    exact, rounded = copy.deepcopy(golden_model(NAME)), copy.deepcopy(golden_model(NAME))
    prepare(exact, "float32")
    prepare(rounded, "bfloat16")
    given = arrays(NAME, "inputs")
    with torch.inference_mode():
        a, b = (m.separate(given["mix_a"], given["condition"]) for m in (exact, rounded))
    assert (a - b).abs().max() <= 3e-2 * a.abs().max()


def test_wrong_prompts_are_named():
    model, spec = golden_model(NAME), torch.zeros(1, 3, 1025, dtype=torch.complex64)
    with pytest.raises(PromptError, match="needs prompts, vectors of 12 numbers"):
        model(spec, None)
    with pytest.raises(PromptError, match="vectors of 12 numbers, not 13"):
        model(spec, torch.zeros(1, 13))


def test_bins_have_to_halve():
    with pytest.raises(InputError, match="n_fft / 2 must be a multiple of 64"):
        AspUnetConfig(stft=StftConfig(1000, 320, 1000))


def ruled(key, shape):
    """The weights of zeroshot_unet_full_rule."""
    r = torch.randn(shape, generator=torch.Generator().manual_seed(zlib.crc32(key.encode())))
    if key.endswith("running_var"):
        return 0.5 + r.abs()
    if key.endswith(("running_mean", "bias")):
        return r * (0.3 if key.endswith("running_mean") else 0.1)
    return 1 + 0.2 * r if len(shape) == 1 else r * (2 / (r.numel() / shape[0])) ** 0.5


@pytest.mark.slow
def test_full_size():
    name = "zeroshot_unet_full_rule"
    listed = json.loads((GOLDEN / "keys" / "zeroshot_asp_full.json").read_text())
    shapes = {key: shape for key, shape in listed["keys"].items() if not key.startswith(("stft.", "istft."))}
    state = {k: torch.tensor(0) if k.endswith("num_batches_tracked") else ruled(k, s) for k, s in shapes.items()}
    config = zeroshot.configure(zeroshot.Settings(Table(settings(name), "config"), {}), state)
    assert config == preset("asp-unet")
    model = fill(config, zeroshot.read_weights(state, config), name)
    del state
    prepare(model, "float32")
    given, want = arrays(name, "inputs"), arrays(name, "outputs")
    with torch.inference_mode():
        wave = model.separate(given["mix"], given["condition"])
        spectrum = masked(model, given["mix"], given["condition"])
    assert_close(wave[0], want["wav"], TOLERANCE)
    assert_close(spectrum[0, want["frames"]], want["sp_frames"].reshape(-1, 1025), TOLERANCE)
