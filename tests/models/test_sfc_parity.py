"""SFC-CA against its published implementation (tests/golden/sfc_*): ends alone, separator, waveforms, long audio."""

import json
from dataclasses import replace

import pytest
import torch
from golden_io import GOLDEN, arrays, assert_close, implementation, record, settings  # noqa: F401
from golden_sfc import core, sfc_model

from ussfast import SegmentPolicy, Separator
from ussfast.models import build
from ussfast.models.sfc import band_edges, musical_edges

TOLERANCE = 1e-5
WRAPPER = "sfc_wrapper_tiny"


def frames_first(x):
    """[batch, channels, frames, positions] -> [batch, frames, positions, channels]."""
    return x.permute(0, 2, 3, 1)


@pytest.mark.parametrize("kind", ["learnable", "adaptive", "masked"])
def test_ends_and_every_intermediate(kind, implementation):  # noqa: F811
    name = f"sfc_ca_encdec_{kind}"
    model, spec, want = sfc_model(name), arrays(name, "inputs")["spec"], arrays(name, "outputs")
    inner = ("encoder", "encoder.input_norm", "encoder.attention.out", "encoder.attention")
    inner += ("decoder.input_conv", "decoder.attention.out", "decoder.attention")
    dec_in = frames_first(want["dec_in"])

    def run():
        tokens, bin_tokens = model.encode(spec)
        return tokens, model.decoder(dec_in, bin_tokens)

    (tokens, out), seen = record(model, inner, run)
    assert_close(tokens, frames_first(want["enc_out"]), TOLERANCE)
    assert_close(out, frames_first(want["dec_out"]), TOLERANCE)
    taps = {
        "enc_emb": seen["encoder.input_norm"][1].flatten(0, 1),
        "enc_attn": seen["encoder.attention.out"][1],
        "enc_block": seen["encoder.attention"][1],
        "dec_emb": seen["decoder.input_conv"][1].flatten(0, 1),
        "dec_attn": seen["decoder.attention.out"][1],
        "dec_block": seen["decoder.attention"][1],
    }
    if kind == "adaptive":
        taps |= {"enc_query": seen["encoder.attention"][0], "dec_query": seen["decoder.attention"][0]}
    for tap, value in taps.items():
        assert_close(value[want["tap_rows"]], want[f"{tap}_rows"], TOLERANCE)

    edges = band_edges(model.config.sfc, model.config.stft, model.config.sample_rate)
    assert edges == tuple(map(tuple, want["band_edges"].tolist()))
    fresh = build(model.config)
    for end, bias in (("encoder", want["init_pos_bias_enc_head0"]), ("decoder", want["init_pos_bias_enc_head0"].T)):
        assert torch.equal(getattr(fresh, end).attention.bias, bias.expand(4, -1, -1))
    if kind == "adaptive":
        assert_close(fresh.encoder.bin_weights.detach(), want["init_freq_weights"], 1e-7)
    if kind == "masked":
        mask = core(name)["decoder.block.mixer.pos_bias.attention_mask"][0]
        assert torch.equal(fresh.decoder.attention.mask, mask) and mask.isinf().any()
    compared = {f"{tap}_rows" for tap in taps} | {"enc_out", "dec_in", "dec_out", "tap_rows", "band_edges"}
    assert compared | {"init_pos_bias_enc_head0"} == want.keys() - {"init_freq_weights"}


def test_what_is_trained():
    masked, learnable = sfc_model("sfc_ca_encdec_masked"), sfc_model("sfc_ca_encdec_learnable")
    parameters = dict(masked.named_parameters())
    assert "encoder.attention.slope" in parameters and "encoder.attention.bias" not in parameters
    assert masked.encoder.attention.slope.tolist() != [1.0] * 4
    parameters = dict(learnable.named_parameters())
    assert "encoder.attention.bias" in parameters and "encoder.attention.slope" not in parameters


def test_separator_and_every_intermediate(implementation):  # noqa: F811
    name = "sfc_bslocoformer_tiny"
    model, want = sfc_model(name), arrays(name, "outputs")
    spec = arrays(name, "inputs")["spec"].transpose(2, 3)
    modules = ("encoder", "first.blocks.0.freq", "first.blocks.0", "first.blocks.1", "decoder")
    masks, seen = record(model, modules, lambda: model(spec))
    assert masks.shape == (1, 3, 2, 14, 257, 2)
    separated = torch.view_as_complex(masks.contiguous()) * spec[:, None]
    assert_close(separated.transpose(-1, -2), want["out"], TOLERANCE)
    assert_close(seen["encoder"][1][0], frames_first(want["enc_out"]), TOLERANCE)
    assert_close(seen["first.blocks.0.freq"][1], want["blk0_freq_path"], TOLERANCE)
    assert_close(seen["first.blocks.0"][1].transpose(1, 2), want["blk0_frame_path"], TOLERANCE)
    for i in range(2):
        assert_close(seen[f"first.blocks.{i}"][1], frames_first(want[f"block{i}_out"]), TOLERANCE)
    decoded = seen["decoder"][1][:, want["frames"]]
    assert_close(decoded, frames_first(want["dec_out_frames"]), TOLERANCE)
    blocks = {"blk0_freq_path", "blk0_frame_path", "block0_out", "block1_out"}
    assert want.keys() == {"out", "enc_out", "dec_out_frames", "frames"} | blocks


def test_waveforms_and_levels(implementation):  # noqa: F811
    model, want = sfc_model(WRAPPER), arrays(WRAPPER, "outputs")
    audio = arrays(WRAPPER, "inputs")["short"]
    before = audio.clone()
    wave, seen = record(model, ("",), lambda: model.separate(audio, None))
    assert torch.equal(audio, before) and want.keys() == {"short_wav", "short_scale", "css_wav"}
    assert seen[""][0].shape == (2, 2, audio.shape[-1] // 128, 257)
    assert_close(model.analyze(audio)[1], want["short_scale"], TOLERANCE)
    # The tail too, which is made of fewer frames than the rest.
    assert_close(wave, want["short_wav"], TOLERANCE)


@pytest.mark.parametrize("backend", ["reference", "native"])
def test_published_stitching(backend):
    mixture, want = arrays(WRAPPER, "inputs")["css"], arrays(WRAPPER, "outputs")["css_wav"]
    size, shift = (settings(WRAPPER)["wrapper"][f"css_{name}_size"] for name in ("segment", "shift"))
    separator = Separator.from_model(sfc_model(WRAPPER), backend=backend)
    separator.policy = SegmentPolicy(size, size - shift, "published")
    stems = torch.from_numpy(separator.separate(mixture, separator.sample_rate).stems)
    assert_close(stems, want, TOLERANCE)


def test_band_edges():
    for case in json.loads((GOLDEN / "sfc_band_edges.json").read_text()).values():
        edges = musical_edges(case["n_fft"], case["sample_rate"], case["n_bands"])
        assert [list(edge) for edge in edges] == case["edges"]


def test_a_scaled_spectrum_is_that_of_the_scaled_waveform():
    """The published wrapper transforms the divided waveform again."""
    model, audio = sfc_model(WRAPPER), arrays(WRAPPER, "inputs")["short"]
    spec, scale = model.analyze(audio)
    plain = build(replace(model.config, level=replace(model.config.level, enabled=False)))
    again, none = plain.analyze(audio / scale[:, None, None])
    assert none is None
    assert_close(torch.view_as_real(spec), torch.view_as_real(again), 1e-6)
