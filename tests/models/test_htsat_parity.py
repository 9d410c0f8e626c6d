"""HTS-AT against its published implementation (tests/golden/htsat_tiny)."""

import pytest
import torch
from golden_io import arrays, assert_close, record, settings, weights

from ussfast.convert.htsat import read_config, read_weights
from ussfast.errors import InputError
from ussfast.models.detectors.htsat import Htsat, HtsatConfig
from ussfast.models.detectors.swin import window_order

NAME, TOLERANCE = "htsat_tiny", 2e-5


@pytest.fixture(scope="module")
def model():
    config = read_config(settings(NAME))
    model = Htsat(config)
    model.load_state_dict(read_weights(weights(NAME), config))
    return model.eval()


@pytest.fixture(scope="module")
def given():
    return arrays(NAME, "inputs")


@pytest.fixture(scope="module")
def want():
    return arrays(NAME, "outputs")


@pytest.mark.parametrize("clip", ["seg2s", "clip10s"])
def test_outputs(model, given, want, clip):
    before = given[clip].clone()
    with torch.inference_mode():
        out = model(given[clip])
    assert torch.equal(given[clip], before)
    assert_close(out.clipwise, want[f"{clip}_clipwise"][None], TOLERANCE)
    assert_close(out.latent, want[f"{clip}_latent"][None], TOLERANCE)
    assert list(out.framewise.shape) == want[f"{clip}_framewise_shape"].tolist()
    assert_close(out.framewise[0, ::32], want[f"{clip}_framewise_every32"], TOLERANCE)
    for row in range(0, 1024, 32):  # piecewise constant
        assert torch.equal(out.framewise[:, row : row + 32], out.framewise[:, row : row + 1].expand(-1, 32, -1))


def test_without_repetition(model, given, want):
    with torch.inference_mode():
        out = model(given["seg2s"], repeat=False)
        assert not torch.allclose(out.latent, model(given["seg2s"]).latent, atol=1e-3)
    assert_close(out.clipwise, want["seg2s_noinfer_clipwise"][None], TOLERANCE)
    assert_close(out.latent, want["seg2s_noinfer_latent"][None], TOLERANCE)


def test_intermediates(model, given, want):
    out, seen = record(model, ("log_mel", "patch_norm", "swin.norm", *(f"swin.mergings.{i}" for i in range(3))),
                       lambda: model(given["seg2s"]))  # fmt: skip
    assert_close(seen["log_mel"][1][0], want["seg2s_logmel"], TOLERANCE)
    assert_close(seen["patch_norm"][1][0][[0, 1, 64, 2047, 4095]], want["seg2s_patch_rows"], TOLERANCE)
    for stage, side in enumerate((32, 16, 8)):
        # Tokens of a stage lie window by window of 8 x 8.
        order = window_order(side, 8, 0).tolist()
        tokens = seen[f"swin.mergings.{stage}"][1][0][[order.index(i) for i in (0, 1, side * side - 1)]]
        assert_close(tokens, want[f"seg2s_layer{stage}_rows"], TOLERANCE)
    # Recorded in front of the last norm.
    assert_close(seen["swin.norm"][0][0][[0, 1, 63]], want["seg2s_layer3_rows"], TOLERANCE)


def test_the_image(model, want):
    with torch.inference_mode():
        patches = model._patches(model._stretched(model._normed(want["seg2s_logmel"][None]).repeat(1, 5, 1)))
    image = patches.view(64, 64, 4, 4).transpose(1, 2).reshape(256, 256)
    assert_close(image[[0, 1, 63, 64, 130, 255]], want["seg2s_image_rows"], TOLERANCE)


def test_several_clips_are_each_by_itself(model, given):
    clips = torch.cat([given["seg2s"], given["clip10s"][:, :64000], given["clip10s"][:, -64000:]])
    with torch.inference_mode():
        together, alone = model(clips), [model(clip[None]) for clip in clips]
    for name in ("clipwise", "framewise", "latent"):
        want = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), want, rtol=1e-5, atol=1e-5)


def test_what_is_kept_for_inference_is_what_gradients_go_through(model, given):
    with torch.inference_mode():
        kept = model(given["seg2s"]).latent
    out = model(given["seg2s"])
    torch.testing.assert_close(kept, out.latent.detach(), rtol=1e-5, atol=1e-5)
    out.latent.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("head."))
    model.zero_grad()


def test_new_weights_drop_what_was_kept(given):
    config = read_config(settings(NAME))
    model = Htsat(config).eval()
    with torch.inference_mode():
        model(given["seg2s"])
    model.load_state_dict(read_weights(weights(NAME), config))
    fresh = Htsat(config).eval()
    fresh.load_state_dict(read_weights(weights(NAME), config))
    with torch.inference_mode():
        assert torch.equal(model(given["seg2s"]).latent, fresh(given["seg2s"]).latent)


def test_lengths_that_fit_and_lengths_that_do_not(model):
    mels = torch.randn(1, 2051, 64) * 20 - 40
    with torch.inference_mode():
        whole = model.of_spectrogram(mels[:, :1024])
        assert torch.equal(whole.latent, model.of_spectrogram(mels[:, :1024], repeat=False).latent)
        assert model.of_spectrogram(mels[:, :1]).latent.isfinite().all()
        with pytest.raises(InputError, match=r"clips of 10.25 s do not fit the detector, which takes at most 10.24 s"):
            model.of_spectrogram(mels[:, :1025])
        with pytest.raises(InputError, match=r"at most 20.50 s"):
            model.of_spectrogram(mels, repeat=False)
        # Two pieces of 1000 frames, 500 apart.
        long = model.of_spectrogram(mels[:, :2001], repeat=False)
        pieces = [model.of_spectrogram(mels[:, at : at + 1000], repeat=False) for at in (0, 500)]
        torch.testing.assert_close(long.clipwise, (pieces[0].clipwise + pieces[1].clipwise) / 2)
        torch.testing.assert_close(long.framewise, (pieces[0].framewise + pieces[1].framewise) / 2)
        assert long.latent is None
        assert model.of_spectrogram(mels[:, :2050], repeat=False).framewise.shape == (1, 1024, 11)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": ()}, "at least one label"),
        ({"heads": (4, 8, 16)}, "as many heads as depths"),
        ({"heads": (3, 8, 16, 32)}, "heads must divide the width of their stage, got 3 at stage 0"),
        ({"image": 250}, "must be a multiple of 64 mels"),
        ({"image": 320}, "window 8 must divide the sides of all stages, got 20 tokens"),
        ({"window": 1}, "must be 2 to 64"),
    ],
)
def test_sizes_that_do_not_fit(change, says):
    with pytest.raises(InputError, match=says):
        HtsatConfig(**({"labels": ("a",)} | change))
