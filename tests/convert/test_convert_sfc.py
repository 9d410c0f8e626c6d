"""SFC's training checkpoints: which copy of the weights, what settings and shapes say, what is refused."""

import json

import pytest
import torch
import yaml
from golden_io import GOLDEN
from golden_sfc import WHOLE, core, lightning, merged_config, publish, sfc_model

from ussfast.checkpoints.store import fill, load_model, read_info
from ussfast.cli.main import main
from ussfast.convert import convert, sfc
from ussfast.errors import CheckpointError, InputError
from ussfast.models.presets import PRESETS

LISTS = {
    "sfc-musdb18hq-small": "sfc.musdb18hq.small.learnable",
    "sfc-musdb18hq-small-adaptive": "sfc.musdb18hq.small.adaptive",
    "sfc-musdb18hq-medium": "sfc.musdb18hq.medium.learnable",
    "sfc-dnr-small": "sfc.dnr.small.learnable",
    "sfc-dnr-medium": "sfc.dnr.medium.learnable",
}


@pytest.fixture
def recipe(tmp_path):
    return publish(tmp_path / "recipe", WHOLE)


def rewrite(recipe, change, settings=None):
    """The recipe with `change` made to the table of its only checkpoint, and other settings if given."""
    path = recipe / "checkpoints" / "epoch=3.ckpt"
    data = torch.load(path, weights_only=True)
    change(data["state_dict"])
    torch.save(data, path)
    if settings is not None:
        (recipe / "merged_config.yaml").write_text(yaml.safe_dump(settings))


def refused(src, dst, says, **options):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(src, dst, **options)
    assert "\n" not in str(caught.value) and not dst.exists()


def published(name):
    return json.loads((GOLDEN / "keys" / f"{LISTS[name]}.json").read_text())


def fabricated(listed):
    """A training checkpoint with exactly the published keys and shapes; zeros without memory."""
    zeros = {key: torch.zeros(()).expand(shape) for key, shape in listed["core_keys"].items()}
    entries = {f"model.model.{key}": value for key, value in zeros.items()}
    entries |= {f"ema_model.module.model.{key}": value for key, value in zeros.items()}
    for key, (shape, dtype) in listed["lightning_extra"].items():
        entries[key] = torch.zeros(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
    return entries


@pytest.mark.parametrize("name", LISTS)
def test_a_checkpoint_with_the_published_keys_is_the_preset(name):
    listed = published(name)
    entries = fabricated(listed)
    assert len(entries) == listed["n_lightning_keys"]
    settings = sfc.read_config({k: v for k, v in listed.items() if k.endswith("_args")})
    config, state, facts = sfc.complete(settings, entries, [f"{listed['dataset']}.ckpt"], "ema")
    assert config == PRESETS[name] and facts == {"copy": "ema"}
    model = fill(config, sfc.read_weights(state, config), name)
    assert model.parameter_count() == listed["n_params"]["total"]
    for part in ("encoder", "decoder"):
        found = sum(p.numel() for p in getattr(model, part).parameters())
        assert found == listed["n_params"][part]
    with pytest.raises(CheckpointError, match="1 unexpected keys"):
        sfc.read_weights(state | {"encoder.more": torch.zeros(1)}, config)
    with pytest.raises(CheckpointError, match=r"1 missing keys \(decoder.block.norm_ffn.weight\)"):
        sfc.read_weights({k: v for k, v in state.items() if k != "decoder.block.norm_ffn.weight"}, config)


def test_a_published_directory(tmp_path):
    folder = tmp_path / "dnr" / "locoformer-small"
    (folder / "checkpoints").mkdir(parents=True)
    listed = published("sfc-dnr-small")
    (folder / "merged_config.yaml").write_text(yaml.safe_dump({k: v for k, v in listed.items() if "args" in k}))
    whole = {key: value.contiguous() for key, value in fabricated(listed).items()}
    torch.save({"state_dict": whole}, folder / "checkpoints" / "last.ckpt")
    info = convert(folder, tmp_path / "out")
    assert (info.name, info.architecture, info.labels) == (
        "locoformer-small", "bslocoformer", ("speech", "music", "sfx"),
    )  # fmt: skip
    assert info.parameters == 5_814_470 and info.config == PRESETS["sfc-dnr-small"]


@pytest.mark.parametrize(("weights", "factor"), [("ema", 1), ("raw", 2)])
def test_both_copies(recipe, tmp_path, weights, factor):
    info = convert(recipe, tmp_path / "out", weights=weights)
    assert info.source["copy"] == weights and info.source["format"] == "sfc"
    assert info.labels == ("source-1", "source-2", "source-3")
    found, want = load_model(tmp_path / "out")[0].state_dict(), sfc_model(WHOLE).state_dict()
    for key, value in want.items():
        assert torch.equal(found[key], factor * value), key


def test_command_line(recipe, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(recipe), str(tmp_path / "out"), "--format", "sfc", "--weights", "raw"])
    assert ended.value.code == 0 and "bslocoformer" in capsys.readouterr().out
    assert read_info(tmp_path / "out").source["copy"] == "raw"


def test_files_are_averaged_without_the_last(recipe, tmp_path):
    path = recipe / "checkpoints" / "epoch=3.ckpt"
    path.unlink()
    state = core(WHOLE)
    for name, factor in {"epoch=1": 0.5, "epoch=2": 1.5, "last": 100.0}.items():
        scaled = {key: factor * value for key, value in state.items()}
        torch.save(lightning(scaled, scaled), recipe / "checkpoints" / f"{name}.ckpt")
    info = convert(recipe, tmp_path / "out", format="sfc")
    assert [row["file"] for row in info.source["weights"]] == ["epoch=1.ckpt", "epoch=2.ckpt"]
    model = load_model(tmp_path / "out")[0]
    for key, value in sfc_model(WHOLE).state_dict().items():
        torch.testing.assert_close(model.state_dict()[key], value, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("prefix", ["", "model.", "model.model."])
@pytest.mark.parametrize("suffix", ["pth", "pt"])
def test_flat_tables(recipe, tmp_path, prefix, suffix):
    path = recipe / f"flat.{suffix}"
    extra = {"stft.0.window": torch.ones(8), f"{prefix}encoder.edges": torch.ones(3, 2, dtype=torch.int64)}
    torch.save({prefix + key: value for key, value in core(WHOLE).items()} | extra, path)
    assert convert(path, tmp_path / "out").source["copy"] == "raw"
    for key, value in load_model(tmp_path / "out")[0].state_dict().items():
        assert torch.equal(value, sfc_model(WHOLE).state_dict()[key])


@pytest.mark.parametrize(
    ("folder", "labels"), [("dnr.small", ("speech", "music", "sfx")), ("musdb18hq", None), ("landnr", None)]
)
def test_labels_of_a_named_data_set(tmp_path, folder, labels):
    info = convert(publish(tmp_path / folder, WHOLE), tmp_path / "out")
    assert info.labels == (labels or ("source-1", "source-2", "source-3"))


def test_a_block_without_a_feed_forward_layer(recipe, tmp_path):
    def drop(state):
        for key in [key for key in state if "block.feed_forward" in key or "block.norm_ffn" in key]:
            del state[key]

    rewrite(recipe, drop)
    assert convert(recipe, tmp_path / "out").config.sfc.ffn == 0


def nested(path, value):
    """merged_config with one entry changed (None: dropped)."""
    config = json.loads(json.dumps(merged_config(WHOLE)))
    at = config
    for step in path[:-1]:
        at = at[step]
    if value is None:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return config


SEPARATOR, ENCODER, WRAPPER = ("model", "separator"), ("model", "encoder", "args"), ("wrappers", 0)


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        ((*SEPARATOR, "num_groups"), None, r"config.yaml: nowhere in the settings: num_groups \(of the separator"),
        ((*SEPARATOR, "n_layers"), None, r"nowhere .*: n_heads \(of the separator\), num_groups \(of the separator"),
        ((*SEPARATOR, "num_groups"), "${groups}", r"num_groups \(of the separator"),
        ((*WRAPPER, "hop_length"), None, r"hop_length \(of the wrapper"),
        ((*SEPARATOR, "n_layers"), 3, "settings of the separator say n_layers 3, the weights 2"),
        ((*SEPARATOR, "ffn_hidden_dim"), [28, 20], r"say ffn_hidden_dim \[28, 20\], the weights \[20, 28\]"),
        ((*SEPARATOR, "norm_type"), "layernorm", "norm_type must be one of"),
        ((*SEPARATOR, "ffn_type"), ["conv1d", "conv1d"], "ffn_type must be"),
        ((*SEPARATOR, "masking"), False, "masking must be one of"),
        ((*SEPARATOR, "num_groups"), 5, "groups 5 must divide dim 24"),
        ((*ENCODER, "band_config"), "mel", "band_config as 'musical' and as 'mel'"),
        ((*ENCODER, "d_inner"), 32, "give d_inner as 16 and as 32"),
        (("model", "encoder"), {"n_fft": 1024, "query_type": "learnable"}, "give n_fft as 512 and as 1024"),
        ((*WRAPPER, "n_fft"), 1024, "settings of the wrapper say n_fft 1024, the weights 512"),
        ((*WRAPPER, "fs"), 48000, r"several sample rates \(fs, sample_rate\): \[44100, 48000\]"),
        ((*WRAPPER, "css_segment_size"), "long", "css_segment_size must be a float"),
    ],
)
def test_settings_that_do_not_fit(recipe, tmp_path, path, value, says):
    rewrite(recipe, lambda state: None, nested(path, value))
    refused(recipe, tmp_path / "out", says)


def test_other_bands_and_a_missing_rate(recipe, tmp_path):
    config = merged_config(WHOLE)
    for end in ("encoder", "decoder"):
        config["model"][end]["args"]["band_config"] = "erb"
    rewrite(recipe, lambda state: None, config)
    refused(recipe, tmp_path / "out", r"SFC bands 'erb' \(band_config\) are not supported; 'musical' are")
    config = nested((*WRAPPER, "fs"), None)
    for end in ("encoder", "decoder"):
        del config["model"][end]["args"]["sample_rate"]
    rewrite(recipe, lambda state: None, config)
    refused(recipe, tmp_path / "out", r"nowhere in the settings: fs \(of the wrapper\)")


def renamed(old, new):
    def change(state):
        for key in [key for key in state if old in key]:
            state[key.replace(old, new)] = state.pop(key)

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (renamed("encoder.block.", "encoder.forward_block."), "SFC-Mamba .*only SFC-CA is supported"),
        (renamed("decoder.output_conv", "decoder.other"), "not the weights .*: decoder.output_conv.weight is missing"),
        (lambda s: s.update({"ema_model.module.encoder.query": torch.ones(1)}), "encoder.query twice"),
        (renamed("blocks.", "layers."), "blocks.0.freq_path.*is missing"),
    ],
)
def test_weights_that_do_not_fit(recipe, tmp_path, change, says):
    rewrite(recipe, change)
    refused(recipe, tmp_path / "out", f"epoch=3.ckpt: .*{says}")


def test_copies_that_are_not_there(recipe, tmp_path):
    rewrite(recipe, lambda state: [state.pop(key) for key in list(state) if not key.startswith("ema_model.")])
    refused(recipe, tmp_path / "out", "there are no raw weights in it", weights="raw")
    with pytest.raises(InputError, match="weights must be ema or raw, got 'best'"):
        convert(recipe, tmp_path / "out", weights="best")


def test_without_settings(recipe, tmp_path):
    (recipe / "merged_config.yaml").unlink()
    needed = ".*SFC's merged_config.yaml must give n_layers.*num_groups.*band_config.*hop_length"
    refused(recipe, tmp_path / "out", f"no merged_config.yaml belongs to it{needed}", format="sfc")
    refused(recipe, tmp_path / "out", f"no hparams.yaml, config.yaml or merged_config.yaml belongs to it{needed}")
