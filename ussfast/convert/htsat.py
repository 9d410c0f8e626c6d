"""Checkpoints of HTS-AT (ST-SED): Lightning files with keys under `sed_model.`, or flat ones."""

from typing import Any

from torch import Tensor

from ussfast.convert._keys import Keys
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError
from ussfast.models.detectors.htsat import HtsatConfig
from ussfast.models.detectors.log_mel import LogMelConfig, mel_bands
from ussfast.models.detectors.swin import position_index, shift_mask


def read_config(settings: dict[str, Any]) -> HtsatConfig:
    """Our configuration from the constructor's arguments under their published names; those left out are published ones.

    labels: names of the classes, if they are known; else `classes_num` of them are numbered.
    """
    root = Table(settings, "config")
    root.choice("enable_tscam", {True: True}, True)
    for name in ("enable_repeat_mode", "htsat_attn_heatmap"):
        root.choice(name, {False: False}, False)
    patch = root.get("htsat_patch_size", int, 4)
    stride = root.list_of("htsat_stride", int) if "htsat_stride" in settings else [patch, patch]
    if stride != [patch, patch]:
        raise CheckpointError(f"htsat_stride must be the patch size {patch} twice, got {stride}")
    labels = tuple(root.list_of("labels", str)) if "labels" in settings else ()
    count = root.get("classes_num", int, len(labels) or 527)
    if not 1 <= count <= 1000 or (labels and len(labels) != count):
        raise CheckpointError(f"classes_num must be 1 to 1000 and that of the labels, got {count} and {len(labels)}")
    return HtsatConfig(
        labels=labels or tuple(f"class {index}" for index in range(count)),
        front=LogMelConfig(
            sample_rate=root.get("sample_rate", int, 32000),
            n_fft=root.get("window_size", int, 1024),
            hop=root.get("hop_size", int, 320),
            mels=root.get("mel_bins", int, 64),
            fmin=root.get("fmin", float, 50.0),
            fmax=root.get("fmax", float, 14000.0),
        ),
        image=root.get("htsat_spec_size", int, 256),
        patch=patch,
        window=root.get("htsat_window_size", int, 8),
        dim=root.get("htsat_dim", int, 256),
        depths=tuple(root.list_of("htsat_depth", int)) if "htsat_depth" in settings else (2, 2, 6, 2),
        heads=tuple(root.list_of("htsat_num_head", int)) if "htsat_num_head" in settings else (4, 8, 16, 32),
    )


def read_weights(state: dict[str, Tensor], config: HtsatConfig) -> dict[str, Tensor]:
    """Our tensors from published ones, strictly; the prefixes `sed_model.` and `module.` are optional."""
    keys = Keys(state, "module.", "sed_model.")
    out: dict[str, Tensor] = {}

    def both(ours: str, theirs: str, *kinds: str) -> None:
        for kind in kinds or ("weight", "bias"):
            out[f"{ours}.{kind}"] = keys.take(f"{theirs}.{kind}")

    both("mel_norm", "bn0", "weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    both("patch", "patch_embed.proj")
    out["patch.weight"] = out["patch.weight"].flatten(1) if out["patch.weight"].dim() == 4 else out["patch.weight"]
    both("patch_norm", "patch_embed.norm")
    side = config.image // config.patch
    for stage, depth in enumerate(config.depths):
        across = side >> stage
        window = min(config.window, across)
        for index in range(depth):
            ours, theirs = f"swin.stages.{stage}.{index}", f"layers.{stage}.blocks.{index}"
            for mine, name in (("norm1", "norm1"), ("attention.qkv", "attn.qkv"), ("attention.proj", "attn.proj"),
                               ("norm2", "norm2"), ("fc1", "mlp.fc1"), ("fc2", "mlp.fc2")):  # fmt: skip
                both(f"{ours}.{mine}", f"{theirs}.{name}")
            out[f"{ours}.attention.table"] = keys.take(f"{theirs}.attn.relative_position_bias_table")
            _check(keys, f"{theirs}.attn.relative_position_index", position_index(window))
            if index % 2 and across > window:
                _check(keys, f"{theirs}.attn_mask", shift_mask(across, window, window // 2))
        if stage + 1 < len(config.depths):
            both(f"swin.mergings.{stage}.norm", f"layers.{stage}.downsample.norm")
            out[f"swin.mergings.{stage}.reduction.weight"] = keys.take(f"layers.{stage}.downsample.reduction.weight")
    both("swin.norm", "norm")
    both("head", "tscam_conv")
    for unused in ("head.weight", "head.bias"):  # what the token-semantic head took the place of
        keys.take(unused)
    front = config.front
    if keys.has("logmel_extractor.melW"):
        _check(keys, "logmel_extractor.melW", mel_bands(front), 1e-6)
    for part in ("real", "imag"):
        name = f"spectrogram_extractor.stft.conv_{part}.weight"
        if keys.has(name) and keys.take(name).shape != (front.n_fft // 2 + 1, 1, front.n_fft):
            raise CheckpointError(f"{name} is not that of an STFT of {front.n_fft} samples")
    keys.finish("HTS-AT")
    return out


def _check(keys: Keys, name: str, wanted: Tensor, tolerance: float = 0.0) -> None:
    """CheckpointError unless that stored table, if it is there, is the one that we make ourselves."""
    found = keys.take(name)
    if found.numel() and (found.shape != wanted.shape or (found - wanted).abs().max() > tolerance):
        raise CheckpointError(f"{name} is not what the configuration gives")
