"""ESPnet recipes of TF-Locoformer: config.yaml and the keys under `separator.`."""

import re
from typing import Any

from torch import Tensor

from ussfast.convert._keys import Keys, read_stack
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig
from ussfast.models.tflocoformer import TfLocoformerConfig
from ussfast.stft import StftConfig

NORMS = {"rmsgroupnorm": "rms_group_norm", "layernorm": "layer_norm"}


def read_config(yaml: dict[str, Any]) -> TfLocoformerConfig:
    """Our configuration from a recipe's config.yaml."""
    root = Table(yaml, "config")
    kind = root.get("separator", str)
    if kind != "tflocoformer":
        raise CheckpointError(f"ESPnet separator {kind!r} is not supported; 'tflocoformer' is")
    conf, encoder = root.table("separator_conf"), root.table("encoder_conf")
    root.choice("encoder", {"stft": "stft"}, "stft")
    encoder.choice("center", {True: True}, True)
    types, hidden = conf.list_of("ffn_type", str), conf.list_of("ffn_hidden_dim", int)
    if set(types) != {"swiglu_conv1d"} or len(types) != len(hidden):
        raise CheckpointError(f"ffn_type must be 'swiglu_conv1d' once per ffn_hidden_dim {hidden}, got {types}")
    kernel, stride = conf.get("conv1d_kernel", int), conf.get("conv1d_shift", int)
    ffns = tuple(FfnConfig(width, kernel, stride) for width in hidden)
    n_fft = encoder.get("n_fft", int)
    model = root.table("model_conf", optional=True)
    return TfLocoformerConfig(
        sample_rate=sample_rate(root),
        stft=StftConfig(
            n_fft=n_fft,
            hop=encoder.get("hop_length", int),
            window_length=encoder.get("win_length", int, n_fft),
            window=encoder.choice("window", {"hann": "hann"}, "hann"),
            padding="reflect",
        ),
        sources=conf.get("num_spk", int),
        stack=StackConfig(
            blocks=conf.get("n_layers", int),
            dim=conf.get("emb_dim", int),
            groups=conf.get("num_groups", int),
            heads=conf.get("n_heads", int),
            attention_dim=conf.get("attention_dim", int, 128),
            freq_ffn=ffns,
            time_ffn=ffns,
            order=conf.choice("tf_order", {"ft": "ft", "tf": "tf"}, "ft"),
            norm=conf.choice("norm_type", NORMS),
            eps=conf.get("eps", float, 1e-5),
        ),
        level=LevelConfig(enabled=model.get("normalize_variance", bool, False), eps=0.0),
    )


def sample_rate(root: Table) -> int:
    """`sample_rate` or `fs` of the recipe ("8k" in ESPnet's own spelling), at the top or in encoder_conf."""
    for table in (root, root.table("encoder_conf")):
        for name in ("sample_rate", "fs", "default_fs"):
            value = table.data.get(name)
            if isinstance(value, str) and (found := re.fullmatch("([0-9]{1,6})(k?)", value.lower())):
                return int(found[1]) * (1000 if found[2] else 1)
            if isinstance(value, int):
                return value
    raise CheckpointError("the recipe's config.yaml gives no sample rate: add a line like 'sample_rate: 8000'")


def read_weights(state: dict[str, Tensor], config: TfLocoformerConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly; the prefix `separator.` is optional."""
    keys = Keys(state, "separator.")
    out = read_stack(keys, "blocks", "stack", config.stack)
    for ours, theirs in (("conv", "conv.0"), ("norm", "conv.1"), ("deconv", "deconv")):
        for kind in ("weight", "bias"):
            out[f"{ours}.{kind}"] = keys.take(f"{theirs}.{kind}")
    keys.finish("TF-Locoformer")
    return out
