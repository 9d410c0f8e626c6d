"""Models with SFC ends beyond the recorded outputs: prompts, gradients, training, model directories, precisions."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from golden_io import assert_close
from golden_sfc import sfc_model
from tiny import RATE, SFC, STEREO, TUSS_SFC, noise, tiny_manifest, tiny_model, tiny_recipe

from ussfast import CheckpointError, InputError, Separator
from ussfast.checkpoints.store import load_model, save_model
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.models.config import to_dict
from ussfast.models.sfc import edge_bias
from ussfast.ops import use_reference
from ussfast.train.recipe import recipe_from_dict
from ussfast.train.separation import Separation
from ussfast.train.trainer import Trainer

KINDS = {
    "learnable": replace(TUSS_SFC, sfc=SFC),
    "adaptive": TUSS_SFC,
    "stored bias": replace(TUSS_SFC, sfc=replace(SFC, bias="stored", ffn=0)),
    "stereo": STEREO,
}


def given(model, batch=2, samples=3000):
    audio = torch.from_numpy(noise(batch * model.channels, samples))
    prompts = model.prompt_vectors(("speech", "sfx", "bass")) if model.prompt_names else None
    return audio.view(batch, 2, samples) if model.channels == 2 else audio, prompts


def plain_distance(start, end, at):
    if at < start:
        return start - at
    if at >= end:
        return at - (end - 1)
    return abs((start + end) // 2 - at) / ((end - start) // 2 + 1)


def test_edge_bias_is_the_formula():
    edges = [(0, 1), (0, 2), (3, 8), (4, 10), (11, 11), (29, 30)]
    expected = [[-plain_distance(s, e, b) for b in range(30)] for s, e in edges]
    torch.testing.assert_close(edge_bias(torch.tensor(edges), 30), torch.tensor(expected))


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_and_reference_agree_and_items_are_independent(kind):
    model = tiny_model(KINDS[kind]).eval()
    audio, prompts = given(model)
    with torch.inference_mode():
        native = model.separate(audio, prompts)
        with use_reference():
            plain = model.separate(audio, prompts)
        alone = torch.cat([model.separate(item[None], prompts) for item in audio])
    assert native.shape == (2, 3, *audio.shape[1:])
    assert_close(native, plain, 1e-4)
    assert_close(alone, native, 1e-4)
    assert native.std() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reference", [True, False])
def test_everything_that_is_trained_has_a_gradient(kind, reference):
    model = tiny_model(KINDS[kind]).train()
    audio, prompts = given(model, samples=700)
    with use_reference(reference):
        model.separate(audio, prompts).square().sum().backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name
    assert model.encoder.attention.q.weight.grad.any() and model.decoder.attention.kv.weight.grad.any()


def test_a_training_run_learns_and_resumes(tmp_path):
    pool = AudioPool.load([i for i in read_manifest(tiny_manifest(tmp_path)) if i.split == "train"], RATE)
    table = {"architecture": "tuss", **json.loads(json.dumps(to_dict(TUSS_SFC)))}
    recipe = recipe_from_dict(tiny_recipe(optim={"steps": 100, "lr": 0.01}) | {"model": table})
    trainer = Trainer(Separation(recipe, pool, []), tmp_path / "run")
    batch = trainer.work.mixer.batch()
    losses = [trainer.train_step(batch) for _ in range(15)]
    assert losses[-1] < losses[0] - 0.5  # dB
    trainer._save()
    again = Trainer(Separation(recipe, pool, []), tmp_path / "run")
    torch.testing.assert_close(again.model.state_dict(), trainer.model.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_directory(tmp_path, kind):
    model = tiny_model(KINDS[kind]).eval()
    info = save_model(tmp_path / "m", model, name="m", license="CC0-1.0", source={})
    loaded, _ = load_model(tmp_path / "m")
    assert loaded.config == model.config and info.parameters == model.parameter_count()
    audio, prompts = given(model)
    with torch.inference_mode():
        assert torch.equal(loaded.separate(audio, prompts), model.separate(audio, prompts))


def test_a_mask_is_saved_with_its_infinities_but_nothing_else_is(tmp_path):
    masked = sfc_model("sfc_ca_encdec_masked")  # has been loaded from a directory
    assert masked.encoder.attention.mask.isinf().any()
    model = tiny_model(STEREO)
    with torch.no_grad():
        model.encoder.query[0, 0] = -torch.inf
    with pytest.raises(CheckpointError, match="encoder.query is not finite"):
        save_model(tmp_path / "m", model, name="m", license="CC0-1.0", source={})


@pytest.mark.parametrize(("dtype", "most"), [("bfloat16", 0.1), ("int8", 0.2)])
@pytest.mark.parametrize("config", [TUSS_SFC, STEREO])
def test_lower_precisions(config, dtype, most):
    audio = noise(2, 6000)
    prompts = ("speech", "sfx") if config is TUSS_SFC else ()
    exact, rough = (Separator.from_model(tiny_model(config), prompts, dtype=name) for name in ("float32", dtype))
    full, less = exact.separate(audio, RATE).stems, rough.separate(audio, RATE).stems
    assert 0 < np.sqrt(np.mean((less - full) ** 2) / np.mean(full**2)) < most


def test_autocast():
    model = tiny_model(STEREO).eval()
    audio, _ = given(model)
    with torch.inference_mode():
        full, half = model.separate(audio, None), model.separate(audio, None, True)
    assert half.dtype == torch.float32 and 0 < (half - full).norm() < 0.1 * full.norm()


@pytest.mark.parametrize("samples", [2, 63, 64, 65, 128, 1000])
def test_output_is_as_long_as_the_input(samples):
    audio = torch.from_numpy(noise(2, samples))[None]
    with torch.inference_mode():
        wave = tiny_model(STEREO).eval().separate(audio, None)
    assert wave.shape == (1, 3, 2, samples) and wave.isfinite().all()


def test_the_level_is_one_of_an_item_and_undone():
    model = tiny_model(STEREO).eval()
    audio, _ = given(model)
    with torch.inference_mode():
        wave = model.separate(audio, None)
        louder = model.separate(audio * torch.tensor([4.0, 0.5])[:, None, None], None)
    assert_close(louder, wave * torch.tensor([4.0, 0.5]).view(2, 1, 1, 1), 1e-5)
    waveform = tiny_model(replace(STEREO, level=replace(STEREO.level, domain="waveform", eps=0.0))).eval()
    scale = waveform.analyze(audio)[1]
    assert_close(scale, audio.flatten(1).std(1), 1e-6)


def test_audio_of_another_shape():
    stereo, mono = tiny_model(STEREO), tiny_model(TUSS_SFC)
    for model, shape in ((stereo, (2, 900)), (stereo, (1, 1, 900)), (mono, (1, 1, 1, 900)), (mono, (900,))):
        with pytest.raises(InputError, match=r"the model separates audio \[batch, .*samples\], got"):
            model.separate(torch.zeros(shape), None)
