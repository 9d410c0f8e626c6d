"""Model directories that strangers may have written: refused in one line, before they cost memory or time."""

import hashlib
import json

import pytest
import safetensors.torch
import soundfile
import torch
from tiny import CAUSAL, RATE, STEREO, TUSS, UNCONDITIONAL, noise, tiny_directory, tiny_model

from ussfast import Separator
from ussfast.checkpoints import names
from ussfast.checkpoints.building import Sparing
from ussfast.checkpoints.store import available, load_model, save_model
from ussfast.errors import CheckpointError, InputError, UssfastError
from ussfast.models import build
from ussfast.models.config import to_dict


def edited(directory, change):
    """`change` is done to the table in config.json."""
    path = directory / "config.json"
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))
    return directory


def with_weights(directory, content):
    """The directory with these bytes, or tensors, as weights, and their checksum."""
    data = content if isinstance(content, bytes) else safetensors.torch.save(content)
    (directory / "model.safetensors").write_bytes(data)
    return edited(directory, lambda d: d["weights"].update(sha256=hashlib.sha256(data).hexdigest()))


def refused(directory, says):
    with pytest.raises(CheckpointError, match=says) as caught:
        load_model(directory)
    text = str(caught.value)
    assert text.isprintable() and len(text) < 1000 and text.startswith(str(directory))


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("cross_prompt", "blocks"), 100_000_000, r"blocks must be 1 to 1000, got 100000000"),
        (("cross_prompt", "blocks"), 1000, "a larger model than the weights"),
        (("cross_prompt", "dim"), 0, "dim must be 1 to 16384, got 0"),
        (("extraction", "freq_ffn", 0, "hidden"), 16384, "wrong shape: extraction"),
        (("extraction", "eps"), float("nan"), "NaN is not a number of JSON"),
        (("extraction", "eps"), float("inf"), "Infinity is not a number of JSON"),
        (("extraction", "eps"), 10**400, "a number of more than 64 bits"),
        (("extraction", "eps"), -1, "eps must be 1e-15 to 1, got -1.0"),
        (("level", "eps"), 1e300, "level.eps must be 0 to 1, got 1e\\+300"),
        (("sample_rate",), 10**400, "a number of more than 64 bits"),
        (("sample_rate",), 0, "sample_rate must be 1000 to 384000"),
        (("stft", "n_fft"), 10**9, "n_fft must be 2 to 16384"),
        (("stft", "hop"), 1, r"n_fft <= 64 hop"),
        (("bands",), [10**9], r"bands\[0\] must be 1 to 16384"),
        (("bands",), [], "bands must have 1 to 4096 entries"),
        (("decoder_expansion",), 10**6, "decoder_expansion must be 1 to 64"),
        (("prompts",), [f"p{i}" for i in range(2000)], "prompts must have 0 to 1000 entries"),
        (("prompts", 0), "a\nb", "prompts.0. must be .* can be printed"),
        (("prompts", 0), "x" * 10**5, "prompts.0. must be 1 to 100 characters"),
        (("segment_seconds",), 1e12, "segment_seconds must be 0.05 to 3600"),
    ],
)
def test_settings_beyond_reason(tmp_path, path, value, says):
    def change(data):
        *way, last = path
        at = data["config"]
        for step in way:
            at = at[step]
        at[last] = value

    refused(edited(tiny_directory(tmp_path), change), says)


def test_sizes_of_other_architectures(tmp_path):
    causal = tiny_directory(tmp_path, CAUSAL)
    refused(edited(causal, lambda d: d["config"].update(hidden=16384)), "a larger model than the weights")
    stereo = tiny_directory(tmp_path, STEREO)
    refused(edited(stereo, lambda d: d["config"]["sfc"].update(bands="musical", count=10**8)), "count must be 2 to 512")
    labelled = tiny_directory(tmp_path, UNCONDITIONAL, seed=1)
    refused(edited(labelled, lambda d: d["config"].update(labels=["a", "a", "b"])), "do not fit together")
    refused(edited(labelled, lambda d: d["config"].update(sources=10**8)), "sources must be 1 to 256")
    assert len(names.glance(labelled, "x").labels) == 3  # those that are there


def test_models_of_the_hub_are_no_others(tmp_path, monkeypatch):
    directory = edited(tiny_directory(tmp_path), lambda d: d["config"]["extraction"].update(blocks=1000))
    monkeypatch.setattr(names.hub, "download", lambda *which: directory)
    with pytest.raises(CheckpointError, match="a larger model than the weights"):
        Separator("owner/name")


def test_a_glance_is_bounded(tmp_path):
    directory = edited(tiny_directory(tmp_path, UNCONDITIONAL), lambda d: d["config"].update(sources=10**9))
    assert len(names.glance(directory, "x").labels) == 256
    (directory / "config.json").write_text("[" * 10**5)
    assert names.glance(directory, "x") is None


@pytest.mark.parametrize("config", [TUSS, CAUSAL, STEREO, UNCONDITIONAL], ids=["tuss", "causal", "stereo", "plain"])
def test_what_a_model_of_its_weights_needs_is_there(config):
    state = build(config).state_dict()
    with Sparing(len(state), sum(value.numel() for value in state.values())):
        build(config)


def test_sparing_counts_before_it_makes():
    huge = (10**8, 10**8)
    for make in (lambda: torch.zeros(*huge), lambda: torch.ones(huge), lambda: torch.full(size=huge, fill_value=1)):
        with pytest.raises(InputError, match="than the weights, 1 tensors with 5 numbers"), Sparing(1, 5):
            make()
    row = torch.zeros(1)
    with pytest.raises(InputError, match="than the weights"), Sparing(1, 5):
        row.expand(10**15).clone()
    with pytest.raises(InputError, match="than the weights"), Sparing(1, 5):
        [torch.empty(1) for _ in range(200)]


@pytest.mark.parametrize("place", ["name", "license"])
def test_facts_are_lines(tmp_path, place):
    refused(edited(tiny_directory(tmp_path), lambda d: d.update({place: "a\nb"})), f"the file.{place} must be")


def test_facts_of_wrong_types(tmp_path):
    directory = tiny_directory(tmp_path)
    whole = (directory / "config.json").read_text()
    for change, says in (
        ({"parameters": 10**400}, "more than 64 bits"),
        ({"version": [1]}, "version a list of 1; this ussfast reads"),
        ({"format": {"a": "x" * 10**6}}, "a dict of 1, version 1; this ussfast reads"),
        ({"architecture": ["tuss"]}, "architecture must be a str"),
        ({"weights": {"file": "a\0b", "sha256": "", "dtype": ""}}, "file must be .* can be printed"),
        ({"weights": {"file": "x" * 255, "sha256": "", "dtype": ""}}, "are missing"),
        ({"source": {"a": float("nan")}}, "NaN is not a number"),
        ({"source": []}, "source must be a dict"),
    ):
        edited(directory, lambda d, change=change: d.update(change))
        refused(directory, says)
        (directory / "config.json").write_text(whole)
    (directory / "config.json").write_bytes(b"[" * 10**6)
    refused(directory, "nested deeper than 60")


def test_numbers_that_are_none_are_named(tmp_path):
    directory = tiny_directory(tmp_path)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    for value in (float("nan"), float("inf")):
        spoilt = tensors | {"sos": torch.full((8,), value)}
        refused(with_weights(directory, spoilt), "the weights are not finite: sos$")
    refused(with_weights(directory, tensors | {"sos": torch.full((8,), 1e300, dtype=torch.float64)}), "not finite: sos")


@pytest.mark.parametrize("dtype", ["int64", "bool", "complex64", "float8_e4m3fn"])
def test_types_that_are_no_weights_are_named(tmp_path, dtype):
    directory = tiny_directory(tmp_path)
    tensors = safetensors.torch.load_file(directory / "model.safetensors")
    changed = tensors | {"sos": torch.ones(8).to(getattr(torch, dtype))}
    refused(with_weights(directory, changed), f"wrong type: sos {dtype}")


@pytest.mark.parametrize(
    "header",
    [
        b"\xff" * 8,
        b"\0" * 8,
        (10).to_bytes(8, "little") + b"[1, 2, 3] ",
        (60).to_bytes(8, "little") + b'{"sos":{"dtype":"F32","shape":[1e9],"data_offsets":[0,4]}} abcd',
        (65).to_bytes(8, "little") + b'{"sos":{"dtype":"F32","shape":[99999999],"data_offsets":[0,4]}}  abcd',
        (56).to_bytes(8, "little") + b'{"sos":{"dtype":"F4","shape":[2],"data_offsets":[0,1]}} a',
        (24).to_bytes(8, "little") + b'{"__metadata__":{"a":1}}',
    ],
)
def test_headers_that_are_wrong(tmp_path, header):
    refused(with_weights(tiny_directory(tmp_path), header), "not readable as safetensors")


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "a/" + "b" * 200, "a/b@" + "c" * 500, "\udc80", "x" * 10**5])
def test_names_that_can_be_none(name):
    with pytest.raises(CheckpointError, match="no model '.*owner/name") as caught:
        Separator(name)
    assert str(caught.value).isprintable() and len(str(caught.value)) < 600


def test_a_model_with_a_strange_name_is_not_saved(tmp_path):
    for name in ("", "a\nb", "x" * 300):
        with pytest.raises(InputError, match=r"ModelDirectory\.name must be"):
            save_model(tmp_path / "m", tiny_model(), name=name, license="MIT", source={})
    assert not (tmp_path / "m").exists()
    save_model(tmp_path / "m", tiny_model(), name="m", license="MIT", source={"file": "a\udc80"})
    assert load_model(tmp_path / "m")[1].source == {"file": "a?"}


def test_models_that_cannot_be_read_are_not_listed(tmp_path, monkeypatch):
    monkeypatch.setattr(names, "EMBEDDED", tmp_path)
    tiny_directory(tmp_path)
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "config.json").write_text("[" * 10**5)
    assert [info.name for info in available()] == ["TussConfig-0"]


def test_results_that_are_not_finite_are_an_error(tmp_path):
    model = tiny_model()
    with torch.no_grad():
        for weights in model.decoder.parameters():
            weights.fill_(3e38)
    separator = Separator.from_model(model, "speech", dtype="float32")
    with pytest.raises(UssfastError, match="not finite"):
        separator.separate(noise(1, 800), RATE)
    soundfile.write(tmp_path / "a.wav", noise(1, 800)[0], RATE)
    with pytest.raises(UssfastError, match="not finite"):
        separator.separate_file(tmp_path / "a.wav", tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_configurations_are_plain_json():
    assert json.loads(json.dumps(to_dict(CAUSAL), allow_nan=False))["bands"] == list(CAUSAL.bands)
