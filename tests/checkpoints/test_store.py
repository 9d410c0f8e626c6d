"""Model directories: saved completely or not at all, loaded strictly, refused with one clear line."""

import copy
import hashlib
import json
import os

import pytest
import safetensors.torch
import torch
from golden_io import arrays, golden_model

from ussfast.checkpoints.building import Sparing
from ussfast.checkpoints.store import describe, load_model, read_info, save_model
from ussfast.errors import CheckpointError, InputError, OutputError

FACTS = {"name": "tiny", "license": "CC0-1.0", "source": {"url": "https://example.org"}}


@pytest.fixture
def directory(tmp_path):
    """A saved tiny TF-Locoformer."""
    save_model(tmp_path / "tiny", golden_model("tflocoformer_tiny"), **FACTS)
    return tmp_path / "tiny"


def edit(directory, **entries):
    """Changes entries of config.json; None drops one."""
    path = directory / "config.json"
    data = json.loads(path.read_text()) | entries
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def refresh(directory, data):
    """Other bytes as weights, with the matching checksum."""
    (directory / "model.safetensors").write_bytes(data)
    weights = {"file": "model.safetensors", "sha256": hashlib.sha256(data).hexdigest(), "dtype": "float32"}
    edit(directory, weights=weights)


def refused(directory, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(directory)
    assert "\n" not in str(caught.value) and str(directory) in str(caught.value)


@pytest.mark.parametrize("name", ["tuss_tiny", "bslocoformer_tiny", "tflocoformer_tiny"])
def test_round_trip(tmp_path, name):
    model = golden_model(name)
    saved = save_model(tmp_path / name, model, **FACTS)
    state = torch.random.get_rng_state()
    loaded, info = load_model(tmp_path / name)
    assert torch.equal(torch.random.get_rng_state(), state), "loading drew random numbers"
    assert info == saved == read_info(tmp_path / name)
    assert not loaded.training and loaded.config == model.config
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[key]), key
    assert all(p.requires_grad for p in loaded.parameters())
    assert {p.name for p in tmp_path.iterdir()} == {name}


def test_what_is_known_of_a_model(tmp_path, directory):
    info = read_info(directory)
    assert (info.name, info.license, info.source) == ("tiny", "CC0-1.0", FACTS["source"])
    assert (info.architecture, info.sample_rate, info.path) == ("tflocoformer", 8000, directory)
    assert info.parameters == golden_model("tflocoformer_tiny").parameter_count()
    assert info.prompts == () and info.labels == ("source-1", "source-2")
    info = save_model(tmp_path / "tuss", golden_model("tuss_tiny"), **FACTS)
    assert info.prompts[:2] == ("speech", "sfx") and info.labels == ()


def test_a_fingerprint_is_that_of_configuration_and_weights(tmp_path):
    model = copy.deepcopy(golden_model("tflocoformer_tiny"))
    first = save_model(tmp_path / "first", model, **FACTS)
    other = save_model(tmp_path / "other", model, name="other", license="MIT", source={})
    assert len(first.fingerprint) == 64 and first.fingerprint == other.fingerprint
    assert load_model(first.path)[1].fingerprint == first.fingerprint
    data = json.loads((other.path / "config.json").read_text())["config"]
    edit(other.path, config=data | {"segment_seconds": 3})
    assert read_info(other.path).fingerprint != first.fingerprint
    with torch.no_grad():
        model.conv.bias[0] += 1
    assert save_model(tmp_path / "third", model, **FACTS).fingerprint != first.fingerprint
    assert describe(model.config, "tflocoformer", 1, "in memory").fingerprint == ""


def test_float16_storage_loads_as_float32(tmp_path):
    model = golden_model("tuss_tiny")  # its values are representable in float16
    save_model(tmp_path / "half", model, **FACTS, dtype=torch.float16)
    stored = safetensors.torch.load_file(tmp_path / "half" / "model.safetensors")
    ropes = {key for key in stored if key.endswith("_rope")}
    assert {stored[key].dtype for key in ropes} == {torch.float32} and len(ropes) == 4
    assert {stored[key].dtype for key in stored.keys() - ropes} == {torch.float16}
    loaded, _ = load_model(tmp_path / "half")
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32 and torch.equal(value, model.state_dict()[key]), key
    prompts, audio = ("speech", "sfx"), arrays("tuss_tiny", "inputs")["mix"][:, :4000]
    with torch.inference_mode():
        got, want = (m.separate(audio, m.prompt_vectors(prompts)) for m in (loaded, model))
    assert torch.equal(got, want)


def test_weights_that_cannot_be_stored(tmp_path, directory):
    model, _ = load_model(directory)
    with pytest.raises(CheckpointError, match="not torch.float64"):
        save_model(tmp_path / "new", model, **FACTS, dtype=torch.float64)
    with torch.no_grad():
        model.conv.bias[0] = 1e6
    with pytest.raises(CheckpointError, match="conv.bias is not finite as float16"):
        save_model(tmp_path / "new", model, **FACTS, dtype=torch.float16)
    assert not (tmp_path / "new").exists()


def test_overwriting(tmp_path, directory):
    model = golden_model("tflocoformer_tiny")
    (directory / "README.md").write_text("card")
    (directory / "query").mkdir()
    for name in ("config.json", "model.safetensors"):
        (directory / "query" / name).write_text("of a detector")
    with pytest.raises(InputError, match="there is a model already"):
        save_model(directory, model, **FACTS)
    save_model(directory, model, **FACTS | {"name": "again"}, overwrite=True)
    assert read_info(directory).name == "again" and (directory / "README.md").read_text() == "card"
    assert sorted(path.read_text() for path in (directory / "query").iterdir()) == ["of a detector"] * 2

    other = tmp_path / "photos"
    other.mkdir()
    save_model(other, model, **FACTS)  # an empty directory is as good as none
    for path in other.iterdir():
        path.unlink()
    (other / "config.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match="not a ussfast model directory"):
        save_model(other, model, **FACTS, overwrite=True)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="not a ussfast model directory"):
        save_model(tmp_path / "file", model, **FACTS, overwrite=True)
    with pytest.raises(OutputError, match="is not a directory"):
        save_model(tmp_path / "no" / "model", model, **FACTS)


@pytest.mark.parametrize("moves", [0, 1])
def test_a_failed_write_leaves_everything_as_it_was(tmp_path, directory, monkeypatch, moves):
    before = {p.name: p.read_bytes() for p in directory.iterdir()}
    rename, calls = os.rename, []

    def fails(src, dst):
        calls.append(src)
        if len(calls) == moves + 1:
            raise OSError(28, "No space left on device")
        rename(src, dst)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OutputError, match="No space left"):
        save_model(directory, golden_model("tflocoformer_tiny"), **FACTS | {"name": "new"}, overwrite=True)
    assert {p.name: p.read_bytes() for p in directory.iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"version": 2}, "version 2; this ussfast reads 'ussfast-model', version 1"),
        ({"format": "other"}, "'other', version 1; this ussfast reads"),
        ({"format": None}, "not a ussfast model directory.*this ussfast reads"),
        ({"name": None}, r"missing \['name'\]"),
        ({"colour": 1}, r"unknown \['colour'\]"),
        ({"architecture": "tusk"}, "unknown architecture 'tusk'"),
        ({"parameters": "many"}, "parameters must be a int"),
        ({"config": {}}, "missing .*'sample_rate'"),
        ({"weights": {"file": "a", "dtype": "float32"}}, r"missing \['sha256'\]"),
        ({"weights": {"file": "a", "dtype": "float32", "sha256": "0"}}, "weights 'a' .* missing"),
        ({"weights": {"file": "../tiny/model.safetensors", "dtype": "", "sha256": "0"}}, "are missing"),
        ({"weights": {"file": "model.safetensors", "dtype": "", "sha256": "0" * 64}}, "damaged or incomplete"),
    ],
)
def test_config_that_does_not_fit(directory, entries, says):
    edit(directory, **entries)
    refused(directory, says)


def test_impossible_architecture_settings(directory):
    config = json.loads((directory / "config.json").read_text())["config"]
    edit(directory, config=config | {"sources": 0})
    refused(directory, "config.json: config of tflocoformer.sources must be 1 to 256, got 0")
    edit(directory, config=config | {"stack": config["stack"] | {"blocks": 1, "dim": -16}})
    refused(directory, r"stack\.dim must be 1 to 16384, got -16")


def test_files_that_are_no_model(tmp_path, directory):
    (directory / "config.json").write_text("{")
    refused(directory, "not readable as JSON")
    (directory / "config.json").write_text("[]")
    refused(directory, "not a ussfast model directory")
    refused(tmp_path / "none", "no such directory")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(empty, "not a ussfast model directory")
    (empty / "hparams.yaml").touch()
    refused(empty, "looks like a published checkpoint: run 'ussfast convert .* DESTINATION'")


def test_damaged_weights(directory):
    data = (directory / "model.safetensors").read_bytes()
    (directory / "model.safetensors").write_bytes(data[:-100])
    refused(directory, f"damaged or incomplete: SHA-256 .*{len(data) - 100} bytes")
    for damaged in (data[:-100], data[:50], b"", b"nonsense"):
        refresh(directory, damaged)
        refused(directory, "not readable as safetensors")
    (directory / "model.safetensors").unlink()
    refused(directory, "missing")


def test_keys_and_shapes_that_differ_are_named_and_counted(directory):
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    wrong = {key: value for key, value in tensors.items() if not key.endswith("qkv.weight")}
    wrong |= {"conv.bias": torch.zeros(3), "extra": torch.zeros(1)}
    refresh(directory, safetensors.torch.save(wrong))
    refused(
        directory,
        r"missing: .*qkv.weight, .*qkv.weight, .*qkv.weight and 1 more; unexpected: extra; "
        r"wrong shape: conv.bias \[3\] instead of \[16\]",
    )


def test_loading_initialises_nothing():
    with Sparing(10, 1000):
        layer = torch.nn.Linear(3, 3)
        constant = torch.ones(2)
        state = torch.random.get_rng_state()
        torch.nn.init.xavier_normal_(layer.weight)
        torch.nn.init.trunc_normal_(layer.weight)
        torch.randn(3), torch.rand(2, 2), torch.empty(3).uniform_()
        assert torch.equal(torch.random.get_rng_state(), state)
    assert constant.sum() == 2
