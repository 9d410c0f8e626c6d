"""Published checkpoints, rebuilt from the golden instances in every container, become model directories."""

import hashlib
import json
import os
import sys

import pytest
import torch
import yaml
from golden_io import GOLDEN, golden_model, settings, weights

from ussfast.checkpoints.store import fill, load_model
from ussfast.convert import convert, espnet, tuss
from ussfast.convert._files import read_average, weight_files
from ussfast.errors import CheckpointError, InputError

TUSS, CONVENTIONAL, ESPNET = "tuss_tiny", "bslocoformer_tiny", "tflocoformer_tiny"


def published(name, prefix=""):
    return {prefix + key: value.float() for key, value in weights(name).items()}


@pytest.fixture
def exp(tmp_path):
    """An experiment directory of TUSS with its hparams.yaml, and no weights yet."""
    folder = tmp_path / "tuss.tiny"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "hparams.yaml").write_text(yaml.safe_dump(settings(TUSS)))
    return folder


@pytest.fixture
def espnet_exp(tmp_path):
    folder = tmp_path / "enh_train_raw"
    folder.mkdir()
    (folder / "config.yaml").write_text(
        yaml.safe_dump(settings(ESPNET) | {"encoder_conf": {"n_fft": 128, "hop_length": 64}})
    )
    torch.save(published(ESPNET, "separator."), folder / "valid.loss.ave_5best.pth")
    return folder


def same(directory, name):
    model, info = load_model(directory)
    want = golden_model(name)
    assert model.config == want.config
    for key, value in model.state_dict().items():
        assert torch.equal(value, want.state_dict()[key]), key
    return info


def refused(src, dst, says, **options):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(src, dst, **options)
    assert "\n" not in str(caught.value)
    assert not dst.exists()


@pytest.mark.parametrize("prefix", ["", "model."])
def test_flat_pth(exp, tmp_path, prefix):
    path = exp / "checkpoints" / "model.pth"
    torch.save(published(TUSS, prefix), path)
    info = convert(path, tmp_path / "out", license="MIT")
    assert info == same(tmp_path / "out", TUSS)
    assert (info.name, info.license) == ("tuss.tiny", "MIT")
    digest = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (path, exp / "hparams.yaml")}
    assert info.source == {
        "format": "tuss",
        "weights": [{"file": "model.pth", "sha256": digest[path]}],
        "config": {"file": "hparams.yaml", "sha256": digest[exp / "hparams.yaml"]},
    }


def test_lightning_checkpoint_of_the_conventional_model(exp, tmp_path):
    (exp / "hparams.yaml").write_text(yaml.safe_dump(settings(CONVENTIONAL)))
    path = exp / "checkpoints" / "last.ckpt"
    torch.save({"epoch": 3, "state_dict": published(CONVENTIONAL, "model."), "loops": {"a": [1]}}, path)
    info = convert(exp, tmp_path / "out", name="twin")
    assert info.license == "unknown (see the publisher)" and info.name == "twin"
    assert same(tmp_path / "out", CONVENTIONAL).labels == ("source-1", "source-2", "source-3")


def test_a_folder_of_checkpoints_is_averaged_without_the_last(exp, tmp_path):
    state, factors = published(TUSS, "model."), {"epoch=1": 0.5, "epoch=2": 1.5, "last": 100.0}
    for name, factor in factors.items():
        scaled = {k: v if k.endswith("freqs") else v * factor for k, v in state.items()}
        torch.save({"state_dict": scaled}, exp / "checkpoints" / f"{name}.ckpt")
    info = convert(exp, tmp_path / "out")
    same(tmp_path / "out", TUSS)  # exactly: halves of float16 values are exact in float32
    assert [row["file"] for row in info.source["weights"]] == ["epoch=1.ckpt", "epoch=2.ckpt"]
    assert weight_files(exp / "checkpoints") == weight_files(exp)
    torch.save({"state_dict": {"a": torch.ones(1)}}, exp / "checkpoints" / "z.ckpt")
    refused(exp, tmp_path / "out2", "z.ckpt: other keys or shapes than epoch=1.ckpt")


def test_whole_numbers_are_summed_as_published(exp):
    paths = [exp / "checkpoints" / f"{i}.pth" for i in range(3)]
    for path in paths:
        torch.save({"n": torch.tensor(5), "x": torch.tensor([float(path.stem)])}, path)
    assert read_average(paths) == {"n": torch.tensor(15), "x": torch.tensor([1.0])}


def test_espnet(espnet_exp, tmp_path):
    for i, src in enumerate((espnet_exp, espnet_exp / "valid.loss.ave_5best.pth")):
        info = convert(src, tmp_path / f"out{i}")
        assert info == same(tmp_path / f"out{i}", ESPNET)
        assert (info.name, info.source["format"], info.sample_rate) == ("enh_train_raw", "espnet", 8000)
    torch.save({}, espnet_exp / "valid.loss.best.pth")
    refused(espnet_exp, tmp_path / "out", "several files of weights .*valid.loss.ave_5best.pth.*: give one")


def test_safetensors_of_published_keys_beside_the_yaml(exp, tmp_path):
    path = exp / "model.safetensors"
    path.write_bytes((GOLDEN / TUSS / "weights.safetensors").read_bytes())
    convert(path, tmp_path / "out", format="tuss")
    same(tmp_path / "out", TUSS)
    path.write_bytes(path.read_bytes()[:-10])
    refused(path, tmp_path / "out2", "not readable as safetensors")


def test_wrong_keys_are_named(exp, tmp_path):
    path = exp / "checkpoints" / "model.pth"
    state = published(TUSS, "model.")
    torch.save(state | {"model.extra": torch.ones(1), "model.two": torch.ones(1)}, path)
    refused(path, tmp_path / "out", r"model.pth: .*0 missing keys; 2 unexpected keys \(extra, two\)")
    torch.save({k: v for k, v in state.items() if "prompts" not in k}, path)
    refused(path, tmp_path / "out", r"8 missing keys \(prompts.bass, .* and 5 more\)")
    torch.save(state | {"separator.sos_token": torch.ones(16, 1, 1)}, path)
    refused(path, tmp_path / "out", "sos_token twice")
    torch.save(state | {"model.separator.sos_token": torch.ones(17, 1, 1)}, path)
    refused(path, tmp_path / "out", r"wrong shape: sos \[17\] instead of \[16\]")


class Code:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_pickle_with_code_is_refused_and_not_run(exp, tmp_path):
    path = exp / "checkpoints" / "model.ckpt"
    torch.save({"state_dict": published(TUSS), "hyper_parameters": Code(tmp_path / "ran")}, path)
    refused(path, tmp_path / "out", r"contains code \(\S*mkdir\) and will not be loaded")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "damaged, or not a PyTorch checkpoint"),
        (b"hello, this is text", "damaged, or not a PyTorch checkpoint|contains code, or is damaged"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n", "git-LFS pointer.*git lfs pull"),
    ],
)
def test_damaged_files(exp, tmp_path, content, says):
    path = exp / "checkpoints" / "model.pth"
    path.write_bytes(content)
    refused(path, tmp_path / "out", says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "no table of tensors"),
        ({}, "no table of tensors"),
        ({"epoch": 1, "a": torch.ones(1)}, "not a table of tensors: 'epoch'"),
    ],
)
def test_pickles_of_something_else(exp, tmp_path, content, says):
    torch.save(content, exp / "checkpoints" / "model.pth")
    refused(exp, tmp_path / "out", says)


def test_truncated_pth(exp, tmp_path):
    path = exp / "checkpoints" / "model.pth"
    torch.save(published(TUSS), path)
    path.write_bytes(path.read_bytes()[:5000])
    refused(path, tmp_path / "out", "damaged, or not a PyTorch checkpoint")


def test_missing_files(exp, tmp_path):
    refused(exp, tmp_path / "out", "checkpoints: no weights here")
    refused(exp / "none.pth", tmp_path / "out", "no such file or directory")
    refused(exp / "hparams.yaml", tmp_path / "out", "weights end in .pth, .ckpt, .safetensors")
    path = exp / "checkpoints" / "model.pth"
    torch.save(published(TUSS), path)
    (exp / "hparams.yaml").unlink()
    listed = "hparams.yaml, config.yaml or merged_config.yaml"
    refused(path, tmp_path / "out", f"no {listed} belongs to it; looked in {path.parent}, {exp}, ")
    refused(path, tmp_path / "out", "no config.yaml belongs", format="espnet")


def test_yaml_that_is_not_the_right_one(exp, tmp_path):
    torch.save(published(TUSS), exp / "checkpoints" / "model.pth")
    for text, says in (
        ("a: [", "hparams.yaml: not readable as YAML"),
        ("- 1", "a table of settings is expected"),
        ("a: 1", "not the settings of a format known here"),
        ("model_name: other\nmodel_conf: {sample_rate: 8000}\nencoder_conf: {fft_size: 64, hop_length: 16}",
         "hparams.yaml: hparams model_name 'other' is not supported"),
        ("model_name: tuss", "hparams.yaml: hparams has no table 'model_conf'"),
    ):  # fmt: skip
        (exp / "hparams.yaml").write_text(text)
        refused(exp, tmp_path / "out", says)


def test_settings_and_weights_of_different_models(exp, tmp_path):
    torch.save(published(CONVENTIONAL), exp / "checkpoints" / "model.pth")
    refused(exp, tmp_path / "out", "should have one shape|weights are not those of the configured TUSS model")


def test_the_target_is_checked_before_weights_are_read(exp, tmp_path):
    (exp / "checkpoints" / "model.pth").write_text("damaged")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").touch()
    with pytest.raises(InputError, match="not a ussfast model directory"):
        convert(exp, tmp_path / "out", overwrite=True)
    with pytest.raises(InputError, match="format 'asteroid' is unknown; there are auto, tuss, espnet, sfc"):
        convert(exp, tmp_path / "new", format="asteroid")


def test_without_pyyaml(espnet_exp, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    refused(espnet_exp, tmp_path / "out", r"pip install 'ussfast\[convert\]'")


def test_labels_only_where_training_fixed_the_order():
    stems = {name: {"num_appear": 1} for name in ("vocals", "drums", "bass")}
    fixed = {"sort_prompts": True, "prompts": stems, "num_srcs_and_weights": {2: 0.0, 3: 1.0}}
    base = settings(CONVENTIONAL)
    assert tuss.read_config(base | fixed).labels == ("bass", "drums", "vocals")
    for change in (
        {"sort_prompts": False},
        {"num_srcs_and_weights": {2: 0.5, 3: 0.5}},
        {"prompts": stems | {"bass": {"num_appear": 100}}},
        {"prompts": {"bass": {"num_appear": 1}}},
    ):
        assert tuss.read_config(base | fixed | change).labels == ()


def changed(**conf):
    config = json.loads(json.dumps(settings(ESPNET)))
    config["separator_conf"] |= conf
    return config


def test_espnet_with_layer_norm_and_one_feed_forward_layer():
    config = espnet.read_config(changed(norm_type="layernorm", ffn_type=["swiglu_conv1d"], ffn_hidden_dim=[28]))
    assert config.stack.norm == "layer_norm" and len(config.stack.freq_ffn) == 1
    # The only layer is the one after the attention, which upstream stores as the first.
    state = {k: v for k, v in published(ESPNET).items() if ".ffn.1." not in k and ".ffn_norm.1." not in k}
    state |= {k.replace("gamma", "bias"): torch.zeros_like(v) for k, v in state.items() if "gamma" in k}
    state = {k.replace("gamma", "weight"): v for k, v in state.items()}
    model = fill(config, espnet.read_weights(state, config), "test")
    assert torch.equal(
        model.stack.blocks[1].time.ffn_after.conv_weight, state["blocks.1.frame_path.ffn.0.conv1d.weight"]
    )
    spec = torch.randn(1, 9, 65, dtype=torch.complex64)
    assert model(spec).shape == (1, 2, 9, 65, 2)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"separator": "tcn"}, "separator 'tcn' is not supported"),
        ({"encoder": "conv"}, r"config.encoder must be one of \['stft'\]"),
        ({"encoder_conf": {"n_fft": 128, "hop_length": 64, "center": False}}, "center must be one of"),
        ({"encoder_conf": {"n_fft": "x", "hop_length": 64}}, "n_fft must be a int"),
        ({"encoder_conf": {"n_fft": 128, "hop_length": 64, "window": ["hann"]}}, "window must be one of"),
        ({"sample_rate": None}, "gives no sample rate"),
        (changed(ffn_type=["conv1d", "conv1d"]), "ffn_type must be 'swiglu_conv1d'"),
        (changed(ffn_hidden_dim=["20", 28]), r"ffn_hidden_dim\[0\] must be a int"),
        (changed(norm_type="batchnorm"), "norm_type must be one of"),
    ],
)
def test_espnet_settings_that_are_not_supported(change, says):
    with pytest.raises(CheckpointError, match=says):
        espnet.read_config(settings(ESPNET) | change)


@pytest.mark.parametrize(("value", "rate"), [(16000, 16000), ("8k", 8000), ("44100", 44100)])
def test_espnet_spells_the_sample_rate_in_several_ways(value, rate):
    assert espnet.read_config(settings(ESPNET) | {"sample_rate": None, "fs": value}).sample_rate == rate


def test_numbers_that_yaml_reads_as_text():
    assert espnet.read_config(changed(eps="1e-5")).stack.eps == 1e-5


def test_float16_publications(exp, tmp_path):
    half = {k: v if k.endswith("freqs") else v.half() for k, v in published(TUSS).items()}
    torch.save(half, exp / "checkpoints" / "model.pth")
    convert(exp, tmp_path / "out")
    same(tmp_path / "out", TUSS)
