"""Checkpoints of the zero-shot separation project: Lightning or flat, with or without settings beside them."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch
from golden_io import GOLDEN, golden_model, settings, weights
from typer.testing import CliRunner

from ussfast.checkpoints.store import load_model
from ussfast.cli.main import app
from ussfast.convert import convert
from ussfast.errors import CheckpointError, InputError

NAME = "zeroshot_unet_tiny"


def published():
    return {key: value.float() if value.is_floating_point() else value for key, value in weights(NAME).items()}


def whole():
    """With what else the published file holds: tables of the transform, and the tagger."""
    tables = {"stft.conv_real.weight": torch.ones(1025, 1, 8), "istft.ola_window": torch.ones(2048)}
    return published() | tables | {"at_model.sed_model.bn0.weight": torch.ones(64)}


@pytest.fixture
def folder(tmp_path):
    made = tmp_path / "asp.tiny"
    made.mkdir()
    return made


def same(directory):
    model, info = load_model(directory)
    want = golden_model(NAME)
    assert model.config == want.config and info.architecture == "asp_unet"
    for key, value in model.state_dict().items():
        assert torch.equal(value, want.state_dict()[key]), key
    return info


def refused(src, dst, says, **options):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(src, dst, format="zeroshot", **options)
    assert "\n" not in str(caught.value)
    assert not dst.exists()


@pytest.mark.parametrize("suffix", ["ckpt", "pth", "safetensors"])
@pytest.mark.parametrize("told", [True, False], ids=["config.json", "no config.json"])
def test_every_container(folder, tmp_path, suffix, told):
    path = folder / f"zeroshot_asp_tiny.{suffix}"
    if suffix == "safetensors":
        path.write_bytes((GOLDEN / NAME / "weights.safetensors").read_bytes())
    else:
        torch.save({"epoch": 1, "state_dict": whole()} if suffix == "ckpt" else whole(), path)
    if told:
        (folder / "config.json").write_text(json.dumps(settings(NAME)))
    info = convert(path, tmp_path / "out", license="MIT")  # its name tells the format
    assert info == same(tmp_path / "out")
    assert (info.name, info.license, info.sample_rate) == ("zeroshot_asp_tiny", "MIT", 32000)
    assert (info.prompts, info.labels, info.parameters) == ((), (), 556069)
    assert info.source["weights"] == [{"file": path.name, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}]
    assert ("config" in info.source) == told


def test_the_command(folder, tmp_path):
    torch.save(whole(), folder / "model.ckpt")
    done = CliRunner().invoke(app, ["convert", str(folder), str(tmp_path / "out"), "--format", "zeroshot"])
    assert done.exit_code == 0, done.output
    assert "asp_unet, 0.56 M parameters, 32000 Hz" in done.output


def test_other_rates_and_hops_are_told_by_the_settings(folder, tmp_path):
    torch.save(published(), folder / "model.pth")
    (folder / "config.json").write_text(json.dumps({"hop_samples": 160, "sample_rate": 16000}))
    config = convert(folder, tmp_path / "out", format="zeroshot").config
    want = golden_model(NAME).config
    assert config == replace(want, sample_rate=16000, stft=replace(want.stft, hop=160))


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ({"latent_dim": 13}, "config.latent_dim is 13, the weights have 12"),
        ({"encoder_channels": [1]}, r"config.encoder_channels is .*, the weights have \[2, 4, 8, 16, 32, 64\]"),
        ({"channels": 2}, r"config.channels must be one of \[1\], got 2"),
        ({"window_size": 1024}, "config.window_size is 1024, the weights have 2048"),
        ({"hop_samples": "x"}, "hop_samples must be a int"),
        ({"hop_samples": 0}, "hop must be 1 to 16384"),
        ([1], "must be a table of settings, got list"),
        ("{", "not readable as JSON|config.json: "),
    ],
)
def test_settings_that_do_not_fit(folder, tmp_path, said, says):
    torch.save(published(), folder / "model.pth")
    (folder / "config.json").write_text(said if isinstance(said, str) else json.dumps(said))
    refused(folder, tmp_path / "out", says)


def test_strict_on_what_belongs_to_the_model(folder, tmp_path):
    path, state = folder / "model.ckpt", whole()
    cases = (
        (state | {"extra": torch.ones(1)}, r"1 unexpected keys \(extra\)"),
        (state | {"sed_model.bn0.weight": torch.ones(1)}, r"unexpected keys \(sed_model.bn0.weight\)"),
        ({k: v for k, v in state.items() if k != "decoder_block2.emb1.bias"}, "missing keys .decoder_block2.emb1.bias"),
        ({k: v for k, v in state.items() if not k.startswith("conv_block7")}, "no weights of an ASP U-Net"),
        ({k: v for k, v in state.items() if not k.startswith("encoder_block3")}, "no weights of an ASP U-Net"),
        ({k: v for k, v in state.items() if k.startswith("at_model")}, "no weights of an ASP U-Net"),
        (state | {"after_conv2.weight": torch.ones(1, 3, 1, 1)}, r"out.weight \[1, 3, 1, 1\] instead of \[1, 2"),
        (state | {"conv_block7.emb1.weight": torch.ones(3)}, "do not fit together"),
        (state | {"bn0.weight": torch.tensor(1.0)}, "do not fit together"),
        (state | {"bn0.weight": torch.full((1025,), torch.nan)}, "not finite"),
    )
    for wrong, says in cases:
        torch.save({"state_dict": wrong}, path)
        refused(path, tmp_path / "out", says)


def test_another_name_tells_no_format(folder, tmp_path):
    torch.save(whole(), folder / "model.ckpt")
    with pytest.raises(CheckpointError, match="no hparams.yaml, config.yaml or merged_config.yaml belongs to it"):
        convert(folder, tmp_path / "out")
    with pytest.raises(InputError, match="there are auto, tuss, espnet, sfc, panns, htsat, zeroshot"):
        convert(folder, tmp_path / "out", format="asp")
