"""Presets against the published key lists (tests/golden/keys): numbers, names and shapes of every tensor."""

import json

import pytest
import torch
from golden_io import GOLDEN

from ussfast.checkpoints.store import fill
from ussfast.convert import FORMATS, _keys, nussl, zeroshot
from ussfast.errors import CheckpointError, InputError
from ussfast.models import architecture_of, build, config_from_dict
from ussfast.models.config import to_dict
from ussfast.models.presets import PRESETS, preset

PUBLISHED = {
    "tuss-medium": "tuss.medium.2-4src",
    "tuss-large": "tuss.large.2-4src",
    "conventional-medium": "conventional.medium.2-4src",
    "conventional-large": "conventional.large.2-4src",
    "tflocoformer-s": "tflocoformer.whamr.small",
    "tflocoformer-m": "tflocoformer.wsj0_2mix",
    "tflocoformer-wsj0": "tflocoformer.wsj0_2mix",
    "tflocoformer-librimix": "tflocoformer.librimix",
    "tflocoformer-whamr": "tflocoformer.whamr",
    "tflocoformer-whamr-small": "tflocoformer.whamr.small",
    "tflocoformer-dns": "tflocoformer.dns_ins20",
    "sfc-musdb18hq-small": "sfc.musdb18hq.small.learnable",
    "sfc-musdb18hq-small-adaptive": "sfc.musdb18hq.small.adaptive",
    "sfc-musdb18hq-medium": "sfc.musdb18hq.medium.learnable",
    "sfc-dnr-small": "sfc.dnr.small.learnable",
    "sfc-dnr-medium": "sfc.dnr.medium.learnable",
    "asp-unet": "zeroshot_asp_full",
    "chimera-wham": "nussl_chimera_wham",
}
# Other names for the same architecture, checked once.
ALIASES = {"tflocoformer-wsj0": "tflocoformer-m", "tflocoformer-whamr-small": "tflocoformer-s"}
ALIASES["tflocoformer-librimix"] = "tflocoformer-m"


def listed(name):
    found = json.loads((GOLDEN / "keys" / f"{PUBLISHED[name]}.json").read_text())
    if "core_keys" in found:  # SFC's lists have names of their own; all but the slopes is trained
        total = found["n_params"]["total"]
        names = {"keys": found["core_keys"], "n_keys": found["n_core_keys"]}
        return found | names | {"total_parameters": total, "trainable_parameters": total}
    if "parameters_without_stft" in found:  # the tables of the transform are listed, too
        total = found["parameters_without_stft"]
        keys = {k: shape for k, shape in found["keys"].items() if not k.startswith(("stft.", "istft."))}
        return {"keys": keys, "n_keys": len(keys), "total_parameters": total, "trainable_parameters": total}
    if "total_parameters" not in found:  # nussl's lists have every tensor twice
        keys = {k.removeprefix("layers."): shape for k, shape in found["keys"].items()}
        total = found["parameters"]
        return {"keys": keys, "n_keys": found["n_keys"] // 2, "total_parameters": total, "trainable_parameters": total}
    return found


def test_which_lack_a_published_list():
    assert PRESETS.keys() - PUBLISHED.keys() == {"tflocoformer-l", "chimera"}
    assert build(preset("tflocoformer-l")).parameter_count() == 22_459_812


def reader(name):
    kind = name.split("-")[0]
    if kind in ("asp", "chimera"):
        return (zeroshot if kind == "asp" else nussl).read_weights
    formats = {"tflocoformer": "espnet", "sfc": "sfc"}
    return FORMATS[formats.get(kind, "tuss")].read_weights


def kind(key):
    return torch.int64 if key.endswith("num_batches_tracked") else torch.float32


@pytest.mark.parametrize("name", sorted(PUBLISHED.keys() - ALIASES))
def test_every_published_key_is_used_once_and_fits(name, monkeypatch):
    config, published = preset(name), listed(name)
    keys, taken = published["keys"], []
    take = _keys.Keys.take
    monkeypatch.setattr(_keys.Keys, "take", lambda self, key: (taken.append(key), take(self, key))[1])
    # Zeros without memory; stacked tensors are small enough.
    state = {key: torch.zeros((), dtype=kind(key)).expand(shape) for key, shape in keys.items()}
    model = fill(config, reader(name)(state, config), name)
    assert sorted(taken) == sorted(key.removeprefix("separator.") for key in keys)
    assert not any(value.any() for value in model.state_dict().values())
    assert len(keys) == published["n_keys"]
    assert model.parameter_count() == published["total_parameters"]
    assert sum(p.numel() for p in model.parameters()) == published["trainable_parameters"]


@pytest.mark.parametrize(("alias", "name"), ALIASES.items())
def test_aliases(alias, name):
    assert preset(alias) == preset(name)
    assert listed(alias) == listed(name)


def test_a_missing_an_unexpected_and_a_misshapen_key_are_named():
    name = "tflocoformer-s"
    config, keys = preset(name), listed(name)["keys"]
    state = {key: torch.zeros(()).expand(shape) for key, shape in keys.items()}
    wrong = {k: v for k, v in state.items() if k != "deconv.bias"} | {"extra.weight": torch.zeros(1)}
    with pytest.raises(CheckpointError, match=r"1 missing keys \(deconv.bias\); 1 unexpected keys \(extra.weight\)"):
        reader(name)(wrong, config)
    tensors = reader(name)(state | {"deconv.bias": torch.zeros(5)}, config)
    with pytest.raises(CheckpointError, match=r"wrong shape: deconv.bias \[5\] instead of \[4\]"):
        fill(config, tensors, name)


def test_blocks_must_share_their_rotary_frequencies():
    name = "tflocoformer-s"
    state = {key: torch.zeros(shape) for key, shape in listed(name)["keys"].items()}
    state["blocks.1.freq_path.attn.rope.freqs"] += 1
    with pytest.raises(CheckpointError, match="freq_path.*different rope.freqs"):
        reader(name)(state, preset(name))


def test_presets_survive_json():
    for config in PRESETS.values():
        assert config_from_dict(architecture_of(config), json.loads(json.dumps(to_dict(config)))) == config


def test_unknown_names():
    with pytest.raises(InputError, match="did you mean tuss-medium"):
        preset("tuss-medum")
    with pytest.raises(InputError, match="there are tuss-medium, tuss-large"):
        preset("zzz")
