"""TUSS against outputs and intermediates of the published implementation (tests/golden/tuss_tiny*)."""

import pytest
import torch
from golden_io import arrays, assert_close, golden_model, implementation, record, settings  # noqa: F401

from ussfast.errors import PromptError

WAVE, INNER = 5e-4, 1e-4
MODULES = ("", "encoder", "cross_prompt", "cross_prompt.blocks.0.freq", "extraction", "decoder")


@pytest.fixture
def runs(implementation):  # noqa: F811
    """For both prompt lists the waveforms and what the submodules saw."""
    model, audio = golden_model("tuss_tiny"), arrays("tuss_tiny", "inputs")["mix"]
    before = audio.clone()
    out = {}
    for count in (2, 3):
        prompts = model.prompt_vectors(tuple(settings("tuss_tiny")[f"prompts_{count}"]))
        out[count] = record(model, MODULES, lambda prompts=prompts: model.separate(audio, prompts))
    assert torch.equal(audio, before), "separate changed its caller's audio"
    return out


def test_waveforms_and_every_intermediate(runs):
    want = arrays("tuss_tiny", "outputs")
    frames, samples = want["frames"], settings("tuss_tiny")["n_samples"]
    for count, (wave, _) in runs.items():
        assert wave.shape == (1, count, samples)
        assert_close(wave[0], want[f"wav_{count}"][:, :samples], WAVE)

    seen = runs[2][1]
    assert_close(seen[""][0][0, frames], want["stft_frames"], INNER)
    assert_close(seen["encoder"][1][0, frames].permute(2, 0, 1), want["band_split_frames"], INNER)

    rows_in, rows_out = (side[0].permute(2, 0, 1) for side in seen["cross_prompt"])
    assert_close(rows_in[:, :3], want["cross_prompt_in_prompts"], INNER)
    assert_close(seen["cross_prompt.blocks.0.freq"][1][0, frames], want["block0_freq_out_frames"], INNER)
    assert_close(rows_out[:, :3], want["cross_prompt_out_2_prompts"], INNER)
    assert_close(rows_out[:, frames + 3], want["cross_prompt_out_2_frames"], INNER)
    rows_out = runs[3][1]["cross_prompt"][1][0].permute(2, 0, 1)
    assert_close(rows_out[:, :4], want["cross_prompt_out_3_prompts"], INNER)

    conditioned, extracted = (side[:, frames].permute(0, 3, 1, 2) for side in seen["extraction"])
    assert_close(conditioned, want["conditioned_2_frames"], INNER)
    assert_close(extracted, want["tse_out_2_frames"], INNER)
    mask = seen["decoder"][1][:, 0, frames].permute(0, 3, 1, 2)  # real pairs
    assert_close(mask, want["mask_2_frames"], INNER)

    compared = {"frames", "wav_2", "wav_3", "stft_frames", "band_split_frames", "cross_prompt_in_prompts"}
    compared |= {"block0_freq_out_frames", "cross_prompt_out_2_prompts", "cross_prompt_out_2_frames"}
    compared |= {"cross_prompt_out_3_prompts", "conditioned_2_frames", "tse_out_2_frames", "mask_2_frames"}
    assert compared == want.keys()


def test_bandlimited_from_its_stored_stft(implementation):  # noqa: F811
    """Nearly empty upper bands: a misplaced eps in one of the norms shows here."""
    name = "tuss_tiny_bandlimited"
    model, given, want = golden_model("tuss_tiny"), arrays(name, "inputs"), arrays(name, "outputs")
    prompts = model.prompt_vectors(tuple(settings(name)["prompts"]))
    masks, seen = record(model, ("encoder",), lambda: model(given["stft"][None], prompts))
    spec = torch.view_as_complex(masks) * given["stft"]
    assert_close(spec[0][:, want["frames"]], want["spec_frames"], 5e-4)
    assert_close(seen["encoder"][1][0, 20].T, want["band_split_frame20"], INNER)
    with torch.inference_mode():
        wave = model.separate(given["mix"], prompts)
    # float32 rounding of the STFT alone moves the waveform by a percent here.
    assert_close(wave[0], want["wav"][:, : wave.shape[-1]], 3e-2)


def test_items_of_a_batch_may_have_different_prompts():
    model, audio = golden_model("tuss_tiny"), arrays("tuss_tiny", "inputs")["mix"][:, :9000]
    pairs = [model.prompt_vectors(names) for names in (("speech", "sfx"), ("bass", "drums"))]
    with torch.inference_mode():
        together = model.separate(audio.repeat(2, 1), torch.stack(pairs))
        alone = [model.separate(audio, pair) for pair in pairs]
    assert_close(together, torch.cat(alone), 1e-4)


@pytest.mark.parametrize("samples", [2, 511, 512, 513, 2049])
def test_output_is_as_long_as_the_input(samples):
    model, audio = golden_model("tuss_tiny"), arrays("tuss_tiny", "inputs")["mix"][:, 5000 : 5000 + samples]
    with torch.inference_mode():
        wave = model.separate(audio, model.prompt_vectors(("speech",)))
    assert wave.shape == (1, 1, samples)
    assert wave.isfinite().all()


def test_unknown_or_no_prompts():
    model = golden_model("tuss_tiny")
    with pytest.raises(PromptError, match="'dog'.*knows.*'speech'"):
        model.prompt_vectors(("speech", "dog"))
    with pytest.raises(PromptError):
        model.prompt_vectors(())
    with pytest.raises(PromptError, match="needs prompts"):
        model(torch.zeros(1, 3, 1025, dtype=torch.complex64), None)
