"""Checkpoints of TUSS and of its conventional twin: hparams.yaml and the keys of their separators.

Our decoder splits its last layer's channels as (source, re/im, bin), which is what the published weights mean.
"""

from typing import Any

from torch import Tensor

from ussfast.convert._keys import Keys, read_band_split, read_stack
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError
from ussfast.models.band_split import tuss_bands
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig
from ussfast.models.tuss import TussConfig
from ussfast.plain import shown
from ussfast.stft import StftConfig


def stft_config(encoder: Table) -> StftConfig:
    n_fft = encoder.get("fft_size", int)
    return StftConfig(
        n_fft=n_fft,
        hop=encoder.get("hop_length", int),
        window_length=encoder.get("window_length", int, n_fft),
        window=encoder.choice("window_type", {"sqrt_hann": "sqrt_hann", "hann": "hann"}, "sqrt_hann"),
        normalize=encoder.choice("normalize", {None: None, "default": "default", "window": "window"}, None),
    )


def stack_config(table: Table, blocks: int) -> StackConfig:
    def ffns(name: str) -> tuple[FfnConfig, ...]:
        rows = [entry.table("conf") for entry in table.tables(name)]
        return tuple(
            FfnConfig(row.get("dim_inner", int), row.get("conv1d_kernel", int), row.get("conv1d_shift", int))
            for row in rows
        )

    return StackConfig(
        blocks=blocks,
        dim=table.get("emb_dim", int),
        groups=table.get("num_groups", int),
        heads=table.get("n_heads", int),
        attention_dim=table.get("attention_dim", int),
        freq_ffn=ffns("freq_ffn_config"),
        time_ffn=ffns("frame_ffn_config"),
        order=table.choice("tf_order", {"ft": "ft", "tf": "tf"}, "ft"),
        eps=table.get("eps", float, 1e-5),
    )


def read_config(hparams: dict[str, Any]) -> TussConfig | BsLocoformerConfig:
    """Our configuration from the published hparams.yaml (or the part of it under `model`)."""
    root = Table(hparams, "hparams")
    if "encoder_conf" not in hparams and isinstance(hparams.get("model"), dict):
        root = root.table("model")
    root.choice("encoder_name", {"stft": "stft"}, "stft")
    conf = root.table("model_conf")
    rate = conf.get("sample_rate", int)
    css = root.table("css_conf", optional=True)
    common: dict[str, Any] = {
        "sample_rate": rate,
        "stft": stft_config(root.table("encoder_conf")),
        "level": LevelConfig(enabled=root.get("variance_normalization", bool, True)),
        "segment_seconds": css.get("segment_size", float, 6.0),
    }
    kind = root.get("model_name", str)
    if kind == "tuss":
        return TussConfig(
            prompts=tuple(conf.list_of("prompts", str)),
            cross_prompt=stack_config(
                conf.table("conf_cross_prompt_module"), conf.get("nblocks_cross_prompt_module", int)
            ),
            extraction=stack_config(conf.table("conf_cond_tse_module"), conf.get("nblocks_cond_tse_module", int)),
            sos=conf.get("use_sos_token", bool, True),
            **common,
        )
    if kind == "bslocoformer_stack":
        return BsLocoformerConfig(
            sources=conf.get("num_spk", int),
            labels=_labels(root, conf.get("num_spk", int)),
            first=stack_config(conf.table("config_first_block"), conf.get("n_first_blocks", int)),
            second=stack_config(conf.table("config_second_block"), conf.get("n_second_blocks", int)),
            **common,
        )
    raise CheckpointError(f"hparams model_name {shown(kind)} is not supported; 'tuss' and 'bslocoformer_stack' are")


def _labels(root: Table, sources: int) -> tuple[str, ...]:
    """Names of the sources where training fixed their order: each prompt once in every mixture, sorted."""
    prompts = root.table("prompts", optional=True).data
    counts = root.table("num_srcs_and_weights", optional=True).data
    always = [count for count, weight in counts.items() if weight] == [sources]
    once = all(isinstance(row, dict) and row.get("num_appear") == 1 for row in prompts.values())
    sorted_ = root.get("sort_prompts", bool, False)
    named = all(isinstance(name, str) for name in prompts)
    return tuple(sorted(prompts)) if named and sorted_ and always and once and len(prompts) == sources else ()


def read_weights(state: dict[str, Tensor], config: TussConfig | BsLocoformerConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly; prefixes `model.` and `separator.` are optional."""
    keys = Keys(state, "model.", "separator.")
    bands = config.bands or tuss_bands(config.sample_rate, config.stft.bins)
    out = read_band_split(keys, "band_split_module", bands)
    if isinstance(config, TussConfig):
        out |= read_stack(keys, "cross_prompt_module", "cross_prompt", config.cross_prompt)
        out |= read_stack(keys, "cond_tse_module", "extraction", config.extraction)
        prompts = keys.stack([f"prompts.{name}" for name in config.prompts])
        out["prompts"] = prompts.reshape(len(prompts), -1) if prompts.numel() else prompts
        if config.sos:
            out["sos"] = keys.take("sos_token").flatten()
        keys.finish("TUSS model")
    else:
        out |= read_stack(keys, "first_block", "first", config.first)
        if config.second is not None:
            out |= read_stack(keys, "second_block", "second", config.second)
        keys.finish("band-split TF-Locoformer")
    return out
