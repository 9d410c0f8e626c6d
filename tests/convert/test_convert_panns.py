"""Checkpoints of the PANNs, rebuilt from the golden instances, become directories of detectors."""

import json
from dataclasses import replace

import pytest
import safetensors.torch
import torch
from golden_detectors import LEVEL, TAGS, golden_detector, published_keys
from golden_io import arrays, settings, weights
from tiny import tiny_directory

from ussfast import Separator
from ussfast.checkpoints.store import fill_detector, load_detector, load_model, read_info
from ussfast.convert import convert, panns
from ussfast.errors import CheckpointError
from ussfast.models.detectors.log_mel import mel_bands
from ussfast.models.detectors.presets import DETECTOR_PRESETS


def published(name=TAGS):
    return {key: value.float() if value.is_floating_point() else value for key, value in weights(name).items()}


def fixed(n_fft=1024):
    """Transforms as they are in released files: a discrete Fourier transform, windowed."""
    basis = torch.fft.fft(torch.eye(n_fft, dtype=torch.float64))[: n_fft // 2 + 1]
    windowed = basis * torch.hann_window(n_fft, dtype=torch.float64)
    return {
        "spectrogram_extractor.stft.conv_real.weight": windowed.real[:, None].float(),
        "spectrogram_extractor.stft.conv_imag.weight": windowed.imag[:, None].float(),
    }


@pytest.fixture
def release(tmp_path):
    """What torch.save wrote, with a config.json beside it: released models are larger than this one."""
    folder = tmp_path / "released"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings(TAGS)))
    torch.save({"iteration": 600000, "model": published() | fixed()}, folder / "weights.pth")
    return folder / "weights.pth"


def refused(src, dst, says, **options):
    with pytest.raises(CheckpointError, match=says) as caught:
        convert(src, dst, **options)
    assert "\n" not in str(caught.value) and not dst.exists()


@pytest.mark.parametrize(("format", "archive"), [("auto", True), ("panns", False)])
def test_released_files(release, tmp_path, format, archive):
    if not archive:  # as PyTorch wrote files when these models were published
        torch.save(torch.load(release), release, _use_new_zipfile_serialization=False)
    info = convert(release, tmp_path / "out", format=format, license="CC-BY-4.0")
    model, found = load_detector(tmp_path / "out")
    assert found == info == read_info(tmp_path / "out") and info.detects
    assert (info.name, info.license, info.architecture, info.sample_rate) == ("weights", "CC-BY-4.0", "cnn14", 32000)
    assert info.labels == tuple(f"class {i}" for i in range(13)) and info.prompts == ()
    assert info.parameters == sum(v.numel() for k, v in published().items() if is_trained(k))
    assert info.source["format"] == "panns" and info.source["config"]["file"] == "config.json"
    want = golden_detector(TAGS)
    assert model.config == want.config and not model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, want.state_dict()[key]), key
    with torch.inference_mode():
        audio = arrays(TAGS, "inputs")["wave"]
        assert torch.equal(model.tag(audio), want.tag(audio))


def is_trained(key):
    return "extractor" not in key and not key.endswith(("running_mean", "running_var", "num_batches_tracked"))


def test_decision_level_model_in_safetensors(tmp_path):
    folder = tmp_path / "level"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings(LEVEL)))
    (folder / "x.safetensors").write_bytes(safetensors.torch.save(published(LEVEL)))
    convert(folder, tmp_path / "out")
    assert load_detector(tmp_path / "out")[0].config == golden_detector(LEVEL).config
    assert golden_detector(LEVEL).config.pooling == "max"
    average = panns.read_config(settings(LEVEL) | {"model_class": "Cnn14_DecisionLevelAvg"})
    assert average.pooling == "mean"


@pytest.mark.parametrize(
    ("file", "preset"),
    [
        ("Cnn14_mAP=0.431.pth", "cnn14"),
        ("Cnn14_16k_mAP=0.438.pth", "cnn14-16k"),
        ("Cnn14_DecisionLevelMax_mAP=0.385.pth", "cnn14-dlmax"),
    ],
)
def test_names_of_released_files_say_what_they_are(tmp_path, file, preset):
    assert panns.belongs(tmp_path / file)
    want = DETECTOR_PRESETS[preset]
    keys = published_keys("cnn14_decisionlevelmax" if want.pooling == "max" else "cnn14")
    # Zeros without memory; the fixed ones are of 32 kHz.
    state = {key: torch.zeros(()).expand(shape) for key, shape in keys.items() if "extractor" not in key}
    state |= {key: torch.tensor(0) for key in state if key.endswith("num_batches_tracked")}
    found = panns.find_settings(tmp_path / file)
    config = panns.configure(found, state)
    assert config == want and len(config.labels) == 527 and found.source == {}
    model = fill_detector(config, panns.read_weights(state, config), file)
    assert model.parameter_count() == 80_753_615
    assert not any(value.any() for value in model.state_dict().values())
    bands = {"logmel_extractor.melW": mel_bands(want.front)}
    panns.read_weights(state | bands | fixed(want.front.n_fft), config)
    assert keys.keys() == state.keys() | bands.keys() | fixed().keys()


def test_released_files_of_other_sizes_are_refused(release, tmp_path):
    renamed = tmp_path / "Cnn14_mAP=0.431.pth"
    release.rename(renamed)
    refused(renamed, tmp_path / "out", "the weights are for 13 classes, the settings for 527")
    other = renamed.rename(tmp_path / "mine.pth")
    refused(other, tmp_path / "out", "mine.pth: not called like .* needs a config.json", format="panns")
    refused(other, tmp_path / "out", "no hparams.yaml, config.yaml or merged_config.yaml belongs to it")


def test_names_of_labels(release, tmp_path):
    names = [f"Sound {i}, loud" for i in range(13)]
    rows = "".join(f'{i},/m/{i},"{name}"\n' for i, name in enumerate(names))
    (release.parent / "class_labels_indices.csv").write_text("index,mid,display_name\n" + rows)
    info = convert(release, tmp_path / "csv")
    assert info.labels == tuple(names) and info.source["labels"]["file"] == "class_labels_indices.csv"
    own = [f"own {i}" for i in range(13)]
    (release.parent / "config.json").write_text(json.dumps(settings(TAGS) | {"labels": own}))
    info = convert(release, tmp_path / "own")
    assert info.labels == tuple(own) and "labels" not in info.source
    (release.parent / "config.json").write_text(json.dumps(settings(TAGS) | {"labels": own[:12]}))
    refused(release, tmp_path / "out", "for 13 classes, but there are 12 labels")
    (release.parent / "config.json").write_text(json.dumps(settings(TAGS) | {"labels": [*own[:12], own[0]]}))
    refused(release, tmp_path / "out", "labels must differ, 'own 0' is there twice")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"index,mid,display_name\n1,/m/1,x\n", "column index does not count from 0"),
        (b"index,name\n0,x\n", "no column display_name"),
        (b"index,mid,display_name\n0,/m/1\n", "rows without it"),
        (b"index,mid,display_name\n0,/m/1,\xff\n", "not readable as CSV"),
        (b'index,mid,display_name\n0,/m/1,"x', "not readable as CSV"),
        (b"index,mid,display_name\n" + b"x" * (1 << 20), "more than 1048576 bytes"),
        (b"index,mid,display_name\n0,/m/1,x\n", "for 13 classes, but there are 1 labels"),
    ],
)
def test_lists_of_labels_that_are_none(release, tmp_path, content, says):
    (release.parent / "class_labels_indices.csv").write_bytes(content)
    refused(release, tmp_path / "out", says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"model_class": "Cnn10"}, "config.model_class must be one of"),
        ({"hop_size": "320"}, "config.hop_size must be a int, got '320'"),
        ({"classes_num": 12}, "the weights are for 13 classes, the settings for 12"),
        ({"fmax": 15000}, "melW is not that of the settings"),
        ({"fmax": 17000}, "need fmin < fmax <= half of the sample rate"),
        ({"window_size": 512}, "conv_real.weight is not that of the settings"),
    ],
)
def test_settings_that_do_not_fit(release, tmp_path, change, says):
    (release.parent / "config.json").write_text(json.dumps(settings(TAGS) | change))
    refused(release, tmp_path / "out", says, format="panns")


def test_weights_that_do_not_fit(release, tmp_path):
    state = published()
    for content, says in (
        (state | {"att_block.att.weight": torch.ones(1)}, r"0 missing keys; 1 unexpected keys \(att_block.att"),
        ({k: v for k, v in state.items() if k != "fc1.bias"}, r"1 missing keys \(fc1.bias\)"),
        (state | {"fc1.bias": torch.ones(3)}, r"wrong shape: hidden.bias \[3\] instead of \[128\]"),
        (state | {"conv_block1.conv1.weight": torch.tensor(1.0)}, r"channels\[0\] must be 1 to 16384, got 0"),
        (state | {"bn0.weight": torch.full((64,), torch.nan)}, "not finite: norm.weight"),
        ({"other": torch.ones(1)}, "not those of a Cnn14"),
    ):
        torch.save({"model": content}, release)
        refused(release, tmp_path / "out", says)
    torch.save({"model": 3}, release)
    refused(release, tmp_path / "out", "not a table of tensors: 'model' is something else")


def test_a_detector_is_no_separator_and_the_other_way_round(release, tmp_path):
    convert(release, tmp_path / "out")
    for load in (Separator, load_model):
        with pytest.raises(CheckpointError, match=r"out: a detector \(cnn14\), which separates nothing"):
            load(tmp_path / "out")
    separator = tiny_directory(tmp_path)
    with pytest.raises(CheckpointError, match=r"a model that separates \(tuss\), not a detector"):
        load_detector(separator)
    with pytest.raises(ValueError, match="made of a model that separates, got a Cnn14"):
        Separator.from_model(golden_detector(TAGS))


def test_presets_differ_only_where_the_published_models_do():
    full = DETECTOR_PRESETS["cnn14"]
    assert replace(full, pooling="max") == DETECTOR_PRESETS["cnn14-dlmax"]
    assert replace(full, front=DETECTOR_PRESETS["cnn14-16k"].front) == DETECTOR_PRESETS["cnn14-16k"]


def test_tables_are_made_only_for_weights_that_have_them(monkeypatch):
    """Of a window of 8192 samples they would take a gigabyte."""
    front = replace(panns.read_config(settings(TAGS)).front, n_fft=8192)
    for name in ("_transform", "mel_bands"):
        monkeypatch.setattr(panns, name, lambda *_: pytest.fail("made a table"))
    panns.check_fixed({key: value for key, value in published().items() if key != panns.BANDS}, front)
    for state, name in ((fixed(), "conv_real.weight"), (published(), "melW")):
        with pytest.raises(CheckpointError, match=f"{name} is not that of the settings"):
            panns.check_fixed(state, front)
