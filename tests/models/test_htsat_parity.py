"""HTS-AT against its published implementation (tests/golden/htsat_tiny)."""

import pytest
import torch
from golden_detectors import HTSAT, detector
from golden_io import arrays, assert_close, record

from ussfast.errors import InputError
from ussfast.models.detectors.htsat import Htsat, HtsatConfig
from ussfast.models.detectors.swin import window_order

NAME, TOLERANCE = HTSAT, 2e-5


@pytest.fixture(scope="module")
def model():
    return detector(NAME)


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
        out = model.published(given[clip])
    assert torch.equal(given[clip], before)
    assert_close(out.clipwise, want[f"{clip}_clipwise"][None], TOLERANCE)
    assert_close(out.latent, want[f"{clip}_latent"][None], TOLERANCE)
    assert list(out.framewise.shape) == want[f"{clip}_framewise_shape"].tolist()
    assert_close(out.framewise[0, ::32], want[f"{clip}_framewise_every32"], TOLERANCE)
    for row in range(0, 1024, 32):  # piecewise constant
        assert torch.equal(out.framewise[:, row : row + 32], out.framewise[:, row : row + 1].expand(-1, 32, -1))


def test_without_repetition(model, given, want):
    with torch.inference_mode():
        out = model.published(given["seg2s"], repeat=False)
        assert not torch.allclose(out.latent, model.published(given["seg2s"]).latent, atol=1e-3)
    assert_close(out.clipwise, want["seg2s_noinfer_clipwise"][None], TOLERANCE)
    assert_close(out.latent, want["seg2s_noinfer_latent"][None], TOLERANCE)


def test_intermediates(model, given, want):
    out, seen = record(model, ("front", "patch_norm", "swin.norm", *(f"swin.mergings.{i}" for i in range(3))),
                       lambda: model(given["seg2s"]))  # fmt: skip
    assert_close(seen["front"][1][0], want["seg2s_logmel"], TOLERANCE)
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
        patches = model._patches(model._fitting(want["seg2s_logmel"][None], 5))
    image = patches.view(64, 64, 4, 4).transpose(1, 2).reshape(256, 256)
    assert_close(image[[0, 1, 63, 64, 130, 255]], want["seg2s_image_rows"], TOLERANCE)


def test_several_clips_are_each_by_itself(model, given):
    clips = torch.cat([given["seg2s"], given["clip10s"][:, :64000], given["clip10s"][:, -64000:]])
    with torch.inference_mode():
        together, alone = model.published(clips), [model.published(clip[None]) for clip in clips]
    for name in ("clipwise", "framewise", "latent"):
        want = torch.cat([getattr(one, name) for one in alone])
        torch.testing.assert_close(getattr(together, name), want, rtol=1e-5, atol=1e-5)


def test_what_is_kept_for_inference_is_what_gradients_go_through(model, given):
    with torch.inference_mode():
        kept = model.published(given["seg2s"]).latent
    out = model.published(given["seg2s"])
    torch.testing.assert_close(kept, out.latent.detach(), rtol=1e-5, atol=1e-5)
    out.latent.sum().backward()
    assert all(p.grad is not None for n, p in model.named_parameters() if not n.startswith("out."))
    model.zero_grad()


def test_new_weights_drop_what_was_kept(model, given):
    other = Htsat(model.config).eval().fold(torch.bfloat16)
    with torch.inference_mode():
        other(given["seg2s"])
    other.load_state_dict(model.state_dict())
    with torch.inference_mode():
        assert torch.equal(model(given["seg2s"]).embedding, other(given["seg2s"]).embedding)


def test_lengths_that_fit_and_lengths_that_do_not(model):
    mels = torch.randn(1, 2051, 64) * 20 - 40
    with torch.inference_mode():
        whole = model.rows(mels[:, :1024])
        assert torch.equal(whole.latent, model.rows(mels[:, :1024], repeat=False).latent)
        assert model.rows(mels[:, :1]).latent.isfinite().all()
        with pytest.raises(InputError, match=r"clips of 10.25 s do not fit .*, which takes less than 10.24 s"):
            model.rows(mels[:, :1025])
        with pytest.raises(InputError, match=r"less than 20.50 s"):
            model.rows(mels, repeat=False)
        # Two pieces of 1000 frames, 500 apart.
        long = model.rows(mels[:, :2001], repeat=False)
        pieces = [model.rows(mels[:, at : at + 1000], repeat=False) for at in (0, 500)]
        torch.testing.assert_close(long.clipwise, (pieces[0].clipwise + pieces[1].clipwise) / 2)
        torch.testing.assert_close(long.framewise, (pieces[0].framewise + pieces[1].framewise) / 2)
        assert long.latent is None
        assert model.rows(mels[:, :2050], repeat=False).framewise.shape == (1, 1024, 11)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"labels": ()}, "labels must have 1 to 10000 entries"),
        ({"labels": ("a", "b", "a")}, "labels must differ, 'a' is there twice"),
        ({"segment_seconds": 10.24}, "segment_seconds is at most 10.24 for these sizes, got 10.24"),
        ({"heads": (4, 8, 16)}, "as many heads as depths"),
        ({"heads": (3, 8, 16, 32)}, "heads must divide the width of their stage, got 3 at stage 0"),
        ({"image": 250}, "must be a multiple of 64 mels"),
        ({"image": 320}, "window 8 must divide the sides of all stages, got 20 tokens"),
        ({"window": 1}, "must be 2 to 64"),
        # What weights of any size could ask for.
        ({"image": 4096, "patch": 2, "dim": 8, "heads": (1, 1, 1, 1)}, "is 2048 patches across, more than 256"),
        ({"image": 1024, "window": 64}, "window 64 of 256 tokens across is too large"),
    ],
)
def test_sizes_that_do_not_fit(change, says):
    with pytest.raises(InputError, match=says):
        HtsatConfig(**({"labels": ("a",)} | change))


def test_detection(model, given):
    with torch.inference_mode():
        found, want = model(given["clip10s"]), model.published(given["clip10s"])
        assert torch.equal(found.tags, want.clipwise) and torch.equal(found.embedding, want.latent)
        # A row per frame of the clip, which is a row of the published ones.
        assert found.frames.shape == (1, 1001, 11) and model.frame_seconds == 0.01
        for frame, row in ((0, 0), (520, 532), (1000, 1023)):
            assert torch.equal(found.frames[0, frame], want.framewise[0, row])
        # Of a clip that fits exactly, frames are rows.
        whole = torch.randn(1, model.config.most_samples) * 0.1
        assert torch.equal(model(whole).frames, model.published(whole).framewise)


def test_frames_of_repeated_clips_are_means_over_repetitions(model, given):
    with torch.inference_mode():
        found, want = model.frames(given["seg2s"]), model.published(given["seg2s"]).framewise
    assert found.shape == (1, 201, 11)
    for frame in (0, 57, 200):
        rows = [round((time * 201 + frame) * 1023 / 1004) for time in range(5)]
        torch.testing.assert_close(found[0, frame], want[0, rows].mean(0))


def test_bfloat16_is_near_and_is_dropped_with_training(model, given):
    narrow = Htsat(model.config)
    narrow.load_state_dict(model.state_dict())
    narrow.eval().fold(torch.bfloat16)
    with torch.inference_mode():
        want, found = model(given["clip10s"]), narrow(given["clip10s"])
    assert not torch.equal(found.embedding, want.embedding)
    for one, other in zip(found, want, strict=True):
        assert one.dtype == torch.float32
        assert_close(one, other, 0.03)
    narrow.train().eval()
    with torch.inference_mode():
        assert torch.equal(narrow(given["clip10s"]).embedding, want.embedding)


def test_training_drops_paths(model, given):
    torch.manual_seed(0)
    training = Htsat(model.config).train()
    log_mel = training.front(given["seg2s"]).repeat(2, 1, 1)
    out = training.analyse(log_mel)
    assert not torch.equal(out.tags[0], out.tags[1])  # other blocks were left out
    out.tags.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in training.parameters())
