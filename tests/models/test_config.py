"""Configurations: strict reading from JSON, and values that cannot work."""

import json
from dataclasses import replace

import pytest
from golden_io import golden_model

from ussfast.errors import CheckpointError, InputError
from ussfast.models import architecture_of, config_from_dict
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig, from_dict, to_dict
from ussfast.models.presets import preset
from ussfast.models.sfc import SfcConfig
from ussfast.stft import StftConfig

SFC = SfcConfig(dim=8, heads=2, count=4, query="adaptive", learned_slope=True)
WITH_SFC = replace(preset("tuss-medium"), sfc=replace(SFC, bands="widths", widths=(25,) * 41))


@pytest.mark.parametrize(
    "config",
    [
        *(golden_model(name).config for name in ("tuss_tiny", "bslocoformer_tiny", "tflocoformer_tiny")),
        preset("sfc-musdb18hq-small"),
        WITH_SFC,
    ],
    ids=["tuss", "bslocoformer", "tflocoformer", "sfc", "tuss with sfc"],
)
def test_json_round_trip(config):
    data = json.loads(json.dumps(to_dict(config)))
    assert config_from_dict(architecture_of(config), data) == config


def changed(path, value, drop=False):
    """tuss-medium as JSON with one entry, given by its path, replaced or dropped."""
    data = json.loads(json.dumps(to_dict(preset("tuss-medium"))))
    *way, last = path
    at = data
    for step in way:
        at = at[step]
    if drop:
        del at[last]
    else:
        at[last] = value
    return data


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("sample_rate",), "48000", r"config of tuss\.sample_rate must be a int, got '48000'"),
        (("sample_rate",), True, r"sample_rate must be a int, got True"),
        (("sample_rate",), 48000.5, r"sample_rate must be a int"),
        (("colour",), 1, r"unknown \['colour'\]"),
        (("stft", "hops"), 1, r"config of tuss\.stft .*unknown \['hops'\]"),
        (("stft", "window"), "kaiser", r"stft\.window must be one of \['sqrt_hann', 'hann'\], got 'kaiser'"),
        (("stft",), 5, r"stft must be a table of settings, got int"),
        (("prompts",), "speech", r"prompts must be a list"),
        (("prompts", 1), 7, r"prompts\[1\] must be a str, got 7"),
        (("cross_prompt", "time_ffn", 0, "hidden"), None, r"cross_prompt\.time_ffn\[0\]\.hidden must be a int"),
        (("bands",), [1, "2"], r"bands\[1\] must be a int"),
        (("sos",), 1, r"sos must be a bool"),
    ],
)
def test_wrong_entries_are_named(path, value, says):
    with pytest.raises(CheckpointError, match=says):
        config_from_dict("tuss", changed(path, value))


def test_missing_entries_and_unknown_architectures_are_named():
    with pytest.raises(CheckpointError, match=r"missing \['cross_prompt'\]"):
        config_from_dict("tuss", changed(("cross_prompt",), None, drop=True))
    with pytest.raises(CheckpointError, match="unknown architecture 'tusk'; known are"):
        config_from_dict("tusk", {})
    with pytest.raises(CheckpointError, match="must be a table of settings, got list"):
        config_from_dict("tuss", [])


def test_entries_with_defaults_may_be_left_out_and_whole_numbers_are_floats():
    assert from_dict(LevelConfig, {"eps": 1}) == LevelConfig(eps=1.0)
    assert from_dict(FfnConfig, {"hidden": 3}) == FfnConfig(3, 1, 1)


def stack(**settings):
    ffn = (FfnConfig(8),)
    facts = {"blocks": 1, "dim": 8, "groups": 2, "heads": 2, "attention_dim": 8, "freq_ffn": ffn, "time_ffn": ffn}
    return StackConfig(**(facts | settings))


@pytest.mark.parametrize(
    "make",
    [
        lambda: StftConfig(n_fft=512, hop=0, window_length=512),
        lambda: StftConfig(n_fft=512, hop=128, window_length=1024),
        lambda: FfnConfig(0),
        lambda: FfnConfig(4, kernel=1, stride=2),
        lambda: stack(groups=3),
        lambda: stack(heads=3),
        lambda: stack(attention_dim=6),
        lambda: stack(freq_ffn=()),
        lambda: stack(time_ffn=(FfnConfig(1),) * 3),
        lambda: replace(preset("tuss-medium"), prompts=("a", "a")),
        lambda: replace(preset("tuss-medium"), prompts=()),
        lambda: replace(preset("tuss-medium"), bands=(1000, 24)),
        lambda: replace(preset("conventional-medium"), labels=("speech",)),
        lambda: replace(preset("tflocoformer-s"), sources=0),
        lambda: stack(attention_dim=9, rope=False),
        lambda: replace(preset("conventional-medium"), channels=2),
        lambda: replace(preset("sfc-dnr-small"), channels=0),
        lambda: replace(preset("sfc-dnr-small"), bands=(1025,)),
        lambda: replace(WITH_SFC, sfc=replace(SFC, bands="widths", widths=(25,) * 40)),
        lambda: replace(WITH_SFC, sfc=replace(SFC, bands="mel")),
        lambda: replace(SFC, widths=(1, 2)),
        lambda: replace(SFC, heads=3),
    ],
)
def test_values_that_cannot_work(make):
    with pytest.raises(InputError):
        make()
