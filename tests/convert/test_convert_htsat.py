"""Checkpoints of HTS-AT, rebuilt from the golden instance, become directories of detectors."""

import json

import pytest
import safetensors.torch
import torch
from golden_detectors import HTSAT, golden_detector, published_keys
from golden_io import GOLDEN, arrays, settings, weights
from test_convert_panns import fixed, refused

from ussfast import Separator
from ussfast.checkpoints.store import fill_detector, load_detector, read_info
from ussfast.convert import convert, htsat
from ussfast.errors import CheckpointError
from ussfast.models.detectors.presets import DETECTOR_PRESETS, random_detector
from ussfast.models.detectors.swin import position_index, shift_mask


def published(prefix="sed_model."):
    return {prefix + key: value.float() if value.is_floating_point() else value
            for key, value in (weights(HTSAT) | fixed()).items()}  # fmt: skip


@pytest.fixture
def release(tmp_path):
    """What Lightning wrote, with the constructor's arguments beside it."""
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings(HTSAT)))
    torch.save({"epoch": 3, "global_step": 1, "state_dict": published()}, folder / "weights.ckpt")
    return folder / "weights.ckpt"


@pytest.mark.parametrize("format", ["auto", "htsat"])
def test_lightning_files(release, tmp_path, format):
    info = convert(release, tmp_path / "out", format=format, license="MIT")
    model, found = load_detector(tmp_path / "out")
    assert found == info == read_info(tmp_path / "out") and info.detects
    assert (info.name, info.license, info.architecture, info.sample_rate) == ("weights", "MIT", "htsat", 32000)
    assert info.labels == tuple(f"class {i}" for i in range(11)) and info.prompts == ()
    assert info.source["format"] == "htsat" and info.source["config"]["file"] == "config.json"
    want = golden_detector(HTSAT)
    assert model.config == want.config and not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, want.state_dict()[key]), key
    with torch.inference_mode():
        audio = arrays(HTSAT, "inputs")["seg2s"]
        assert torch.equal(model.embed(audio), want.embed(audio))
    with pytest.raises(CheckpointError, match=r"out: a detector \(htsat\), which separates nothing"):
        Separator(tmp_path / "out")


def test_a_flat_file_without_settings_has_sizes_of_its_own(tmp_path):
    """Transforms, whose content is known, may be missing as well."""
    path = tmp_path / "htsat_small.safetensors"
    path.write_bytes((GOLDEN / HTSAT / "weights.safetensors").read_bytes())
    info = convert(path, tmp_path / "out")
    assert info.config == golden_detector(HTSAT).config and "config" not in info.source
    other = path.rename(tmp_path / "mine.safetensors")
    refused(other, tmp_path / "out2", "no hparams.yaml, config.yaml or merged_config.yaml belongs to it")
    assert convert(other, tmp_path / "out2", format="htsat").config == info.config


def test_the_detector_within_a_separator(tmp_path):
    inside = published("at_model.sed_model.") | {"encoder_block1.conv_block.emb1.bias": torch.ones(4)}
    torch.save({"state_dict": inside}, tmp_path / "zeroshot.ckpt")
    assert convert(tmp_path / "zeroshot.ckpt", tmp_path / "out", format="htsat").config == golden_detector(HTSAT).config


def test_published_sizes(tmp_path):
    """Every key of the full-size list, and every tensor of ours."""
    keys = published_keys("htsat_2048d")
    # Zeros without memory, but for the tables that are looked at.
    state = {key: torch.zeros(()).expand(shape) for key, shape in keys.items() if "extractor" not in key}
    state["bn0.num_batches_tracked"] = torch.tensor(0)
    for key, shape in keys.items():
        if key.endswith("relative_position_index"):
            state[key] = position_index(8)
        if key.endswith("attn_mask"):
            state[key] = shift_mask(round(shape[0] ** 0.5) * 8, 8, 4)
    state = {f"sed_model.{key}": value for key, value in state.items()}
    path = tmp_path / "htsat_audioset_2048d.ckpt"
    assert htsat.belongs(path) and not htsat.belongs(tmp_path / "Cnn14_mAP=0.431.pth")
    config = htsat.configure(htsat.find_settings(path), state)
    assert config == DETECTOR_PRESETS["htsat-2048d"] and config.embedding_dim == 2048
    model = fill_detector(config, htsat.read_weights(state, config), "x")
    # The published total counts the head that nothing uses.
    assert model.parameter_count() + 527 * 528 == 202_007_607
    assert len(keys) == 200 == len(state) + 3


def test_the_smaller_published_size():
    model = random_detector("htsat-768d", seed=1).eval()
    with torch.inference_mode():
        found = model(torch.randn(1, 32000) * 0.1)
    assert found.embedding.shape == (1, 768) and found.tags.shape == (1, 527) and found.frames.shape == (1, 101, 527)


def test_names_of_labels(release, tmp_path):
    rows = "".join(f"{i},/m/{i},sound {i}\n" for i in range(11))
    (release.parent / "class_labels_indices.csv").write_text("index,mid,display_name\n" + rows)
    info = convert(release, tmp_path / "csv")
    assert info.labels == tuple(f"sound {i}" for i in range(11))
    assert info.source["labels"]["file"] == "class_labels_indices.csv"
    (release.parent / "config.json").write_text(json.dumps(settings(HTSAT) | {"labels": ["a"]}))
    refused(release, tmp_path / "out", "for 11 classes, but there are 1 labels")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"htsat_dim": 32}, "the weights are of dim 16, the settings of 32"),
        ({"htsat_depth": [2, 2, 6, 2]}, r"the weights are of depths \(2, 2, 2, 2\), the settings of \(2, 2, 6, 2\)"),
        ({"htsat_num_head": 4}, "config.htsat_num_head must be a list"),
        ({"htsat_stride": [2, 4]}, "config.htsat_stride must be the size of a patch"),
        ({"htsat_spec_size": 512}, "attn_mask is not that of the settings"),
        ({"classes_num": 527}, "the weights are for 11 classes, the settings for 527"),
        ({"fmax": 15000}, "melW is not that of the settings"),
        ({"enable_tscam": False}, r"config.enable_tscam must be one of \[True\]"),
    ],
)
def test_settings_that_do_not_fit(release, tmp_path, change, says):
    (release.parent / "config.json").write_text(json.dumps(settings(HTSAT) | change))
    refused(release, tmp_path / "out", says, format="htsat")


def test_weights_that_do_not_fit(release, tmp_path):
    state, index = published(), "sed_model.layers.0.blocks.0.attn.relative_position_index"
    for content, says in (
        (state | {"extra": torch.ones(1)}, r"0 missing keys; 1 unexpected keys \(extra\)"),
        ({k: v for k, v in state.items() if "norm.bias" not in k}, "missing keys"),
        ({k: v for k, v in state.items() if k != index}, r"1 missing keys \(layers.0.blocks.0.attn.rel"),
        (state | {index: state[index].T}, "relative_position_index is not that of the settings"),
        (state | {"sed_model.norm.bias": torch.ones(3)}, r"wrong shape: swin.norm.bias \[3\] instead of \[128\]"),
        (state | {"sed_model.norm.bias": torch.full((128,), torch.nan)}, "not finite: swin.norm.bias"),
        (state | {"norm.bias": torch.ones(128)}, "norm.bias twice"),
        ({"other": torch.ones(1)}, "not those of an HTS-AT: tscam_conv.weight is missing"),
        (state | {"sed_model.patch_embed.proj.weight": torch.tensor(1.0)}, "not those of an HTS-AT: patch_embed"),
    ):
        torch.save({"state_dict": content}, release)
        refused(release, tmp_path / "out", says)


def test_a_small_file_does_not_build_a_large_model(release):
    config = DETECTOR_PRESETS["htsat-2048d"]
    with pytest.raises(CheckpointError, match="larger model than the weights"):
        fill_detector(config, weights(HTSAT), "x")


def test_directories_round_trip(tmp_path):
    source = tmp_path / "htsat_a.safetensors"
    source.write_bytes(safetensors.torch.save(published("")))
    first = convert(source, tmp_path / "a")
    assert json.loads((tmp_path / "a" / "config.json").read_text())["architecture"] == "htsat"
    assert load_detector(tmp_path / "a")[1] == first
