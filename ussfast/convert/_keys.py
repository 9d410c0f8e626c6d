"""Published state dicts read strictly: every key is used exactly once, and the error names those that are not."""

import torch
from torch import Tensor

from ussfast.checkpoints.store import some
from ussfast.errors import CheckpointError
from ussfast.models.config import StackConfig
from ussfast.ops.band_split import runs


class Keys:
    """Hands out tensors of a published state dict and remembers which keys were asked for."""

    def __init__(self, state: dict[str, Tensor], *prefixes: str):
        """Of `prefixes`, each key loses those that it has, in this order."""
        self.state: dict[str, Tensor] = {}
        for name, tensor in state.items():
            short = name
            for prefix in prefixes:
                short = short.removeprefix(prefix)
            if short in self.state:
                raise CheckpointError(f"the weights hold {short} twice, with and without a prefix")
            self.state[short] = tensor
        self.asked: set[str] = set()

    def take(self, name: str) -> Tensor:
        self.asked.add(name)
        found = self.state.get(name)
        # A missing key is reported with all the others by finish(), before anything uses the stand-in.
        return torch.empty(0) if found is None else found.float() if found.is_floating_point() else found

    def stack(self, names: list[str]) -> Tensor:
        """The tensors of these keys along a new first axis; their shapes must agree."""
        parts = [self.take(name) for name in names]
        if any(name not in self.state for name in names):
            return torch.empty(0)
        shapes = {tuple(part.shape) for part in parts}
        if len(shapes) != 1:
            raise CheckpointError(
                f"{names[0]} .. {names[-1]} should have one shape, found {sorted(shapes)}: "
                "the bands of the configuration are not those of the weights"
            )
        return torch.stack(parts)

    def finish(self, model: str) -> None:
        missing = sorted(self.asked - self.state.keys())
        unexpected = sorted(self.state.keys() - self.asked)
        if missing or unexpected:
            raise CheckpointError(
                f"the weights are not those of the configured {model}: {_counted('missing', missing)}; "
                f"{_counted('unexpected', unexpected)}"
            )


def _counted(kind: str, names: list[str]) -> str:
    return f"{len(names)} {kind} keys" + (f" ({some(names)})" if names else "")


def read_stack(keys: Keys, theirs: str, ours: str, config: StackConfig) -> dict[str, Tensor]:
    """One stack of TF-Locoformer blocks, published under `theirs`.{i}, as our tensors under `ours`."""
    out: dict[str, Tensor] = {}
    for path, name, rope, ffns in (
        ("freq_path", "freq", "freq_rope", config.freq_ffn),
        ("frame_path", "time", "time_rope", config.time_ffn),
    ):
        frequencies = []
        for i in range(config.blocks):
            base, mine = f"{theirs}.{i}.{path}", f"{ours}.blocks.{i}.{name}"
            out |= _read_norm(keys, f"{base}.attn_norm", f"{mine}.attention.norm", config)
            out[f"{mine}.attention.qkv.weight"] = keys.take(f"{base}.attn.qkv.weight")
            out[f"{mine}.attention.out.weight"] = keys.take(f"{base}.attn.aggregate_heads.0.weight")
            if config.rope:
                frequencies.append(f"{base}.attn.rope.freqs")
            # Upstream stores the list reversed: 0 is the layer after the attention, 1 the one before it.
            places = ["ffn_after", "ffn_before"][: len(ffns)]
            for index, place in enumerate(places):
                out |= _read_norm(keys, f"{base}.ffn_norm.{index}", f"{mine}.{place}.norm", config)
                for part in ("conv1d", "deconv1d"):
                    for kind in ("weight", "bias"):
                        target = f"{mine}.{place}.{part.replace('1d', '')}_{kind}"
                        out[target] = keys.take(f"{base}.ffn.{index}.{part}.{kind}")
        if not config.rope:
            continue
        copies = keys.stack(frequencies)
        if copies.numel() and not torch.equal(copies, copies[:1].expand_as(copies)):
            raise CheckpointError(f"the blocks of {theirs} ({path}) carry different rope.freqs; one set is expected")
        out[f"{ours}.{rope}"] = copies[0] if copies.numel() else copies
    return out


def _read_norm(keys: Keys, theirs: str, ours: str, config: StackConfig) -> dict[str, Tensor]:
    if config.norm == "layer_norm":
        return {f"{ours}.{kind}": keys.take(f"{theirs}.{kind}") for kind in ("weight", "bias")}
    return {f"{ours}.weight": keys.take(f"{theirs}.gamma")}


def read_band_split(keys: Keys, theirs: str, bands: tuple[int, ...]) -> dict[str, Tensor]:
    """Band-split encoder and decoder: upstream's module per band, stacked by runs of equal width."""
    enc, dec = f"{theirs}.band_split_module", f"{theirs}.bandwise_decoding_module"
    out: dict[str, Tensor] = {}
    first = 0
    for run, (_, count) in enumerate(runs(bands)):
        at = range(first, first + count)
        first += count
        out[f"encoder.norms.{run}.weight"] = keys.stack([f"{enc}.{k}.0.weight" for k in at])
        out[f"encoder.norms.{run}.bias"] = keys.stack([f"{enc}.{k}.0.bias" for k in at])
        out[f"encoder.weights.{run}"] = _pointwise(keys.stack([f"{enc}.{k}.1.weight" for k in at]))
        out[f"encoder.biases.{run}"] = keys.stack([f"{enc}.{k}.1.bias" for k in at])
        out[f"decoder.weights3.{run}"] = _pointwise(keys.stack([f"{dec}.{k}.5.weight" for k in at]))
        out[f"decoder.biases3.{run}"] = keys.stack([f"{dec}.{k}.5.bias" for k in at])
    every = range(len(bands))
    out["decoder.norm.weight"] = keys.stack([f"{dec}.{k}.0.weight" for k in every])
    out["decoder.norm.bias"] = keys.stack([f"{dec}.{k}.0.bias" for k in every])
    for layer, index in ((1, 1), (2, 3)):
        out[f"decoder.weight{layer}"] = _pointwise(keys.stack([f"{dec}.{k}.{index}.weight" for k in every]))
        out[f"decoder.bias{layer}"] = keys.stack([f"{dec}.{k}.{index}.bias" for k in every])
    return out


def _pointwise(weight: Tensor) -> Tensor:
    """Convolution weights of kernel size 1 as matrices: [..., out, in, 1] -> [..., out, in]."""
    return weight.squeeze(-1) if weight.numel() else weight
