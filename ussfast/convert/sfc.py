"""SFC separators: merged_config.yaml and Lightning's checkpoints with raw and averaged (EMA) weights.

The constructors' arguments are looked for anywhere in the settings. What the shapes of the weights tell is taken from
them; the settings must not contradict it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ussfast.convert._keys import Keys, read_stack
from ussfast.convert._yaml import Table
from ussfast.errors import CheckpointError
from ussfast.models.bslocoformer import BsLocoformerConfig
from ussfast.models.config import FfnConfig, LevelConfig, StackConfig
from ussfast.models.presets import SFC_LABELS, SFC_LEVEL
from ussfast.models.sfc import SfcConfig
from ussfast.stft import StftConfig

YAML = "merged_config.yaml"
EMA = "ema_model.module."
# Names of arguments, by whose they are, and the sets of names that mark a table of such arguments.
NAMES = {
    "separator": (
        "n_layers", "emb_dim", "n_src", "n_heads", "num_groups", "attention_dim", "ffn_type", "ffn_hidden_dim",
        "conv1d_kernel", "conv1d_shift", "tf_order", "norm_type", "eps", "masking",
    ),
    "ends": (
        "d_inner", "d_model", "n_bands", "n_chan", "n_src", "n_fft", "sample_rate", "band_config", "query_type",
    ),
    "attention": ("n_heads", "mask_outside_bands", "learnable_pos_bias", "learnable_slope", "use_ffn"),
    "wrapper": ("n_fft", "hop_length", "fs", "scaling", "css_segment_size"),
}  # fmt: skip
MARKS: dict[str, tuple[set[str], ...]] = {
    "separator": ({"n_layers", "emb_dim"},),
    "ends": ({"d_inner"}, {"n_bands"}, {"band_config"}, {"query_type"}),
    "attention": ({"slope"}, {"learnable_slope"}, {"mask_outside_bands"}, {"learnable_pos_bias"}),
    "wrapper": ({"n_fft", "hop_length"}, {"css_segment_size"}),
}
NEEDS = (
    f"SFC's {YAML} must give n_layers, emb_dim, n_heads and num_groups of the separator, band_config of its ends, "
    "n_fft, hop_length and fs of the wrapper"
)
NEEDED = {"separator": ("n_heads", "num_groups"), "ends": ("band_config",), "wrapper": ("hop_length",)}


@dataclass(frozen=True)
class Settings:
    """The arguments found, by whose they are: of the separator, of its two ends, of their attention, of the wrapper."""

    separator: Table
    ends: Table
    attention: Table
    wrapper: Table
    sample_rate: int


def _tables(tree: Any) -> Iterator[dict[str, Any]]:
    if isinstance(tree, dict):
        yield tree
    for child in tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list) else ():
        yield from _tables(child)


def _role(tables: list[dict[str, Any]], role: str) -> Table:
    """What all tables of this role say together; encoder and decoder must agree."""
    found: dict[str, Any] = {}
    for table in tables:
        if not any(marks <= table.keys() for marks in MARKS[role]):
            continue
        if role == "attention" and MARKS["separator"][0] <= table.keys():
            continue  # its heads are others
        for name in NAMES[role]:
            value = table.get(name)
            if value is None or (isinstance(value, str) and "${" in value):  # a reference to another entry
                continue
            if found.setdefault(name, value) != value:
                raise CheckpointError(f"the settings of the {role} give {name} as {found[name]!r} and as {value!r}")
    return Table(found, f"settings of the {role}")


def read_config(yaml: dict[str, Any]) -> Settings:
    """The arguments in merged_config.yaml; CheckpointError with all that are missing, or for what is not supported."""
    tables = list(_tables(yaml))
    roles = {role: _role(tables, role) for role in NAMES}
    missing = [f"{n} (of the {role})" for role, names in NEEDED.items() for n in names if n not in roles[role].data]
    given = [roles["ends"].data.get("sample_rate"), *(table.get("fs") for table in tables)]
    rates = sorted({rate for rate in given if isinstance(rate, int)})
    if not rates:
        missing.append("fs (of the wrapper)")
    if missing:
        raise CheckpointError(f"nowhere in the settings: {', '.join(missing)}")
    if len(rates) > 1:
        raise CheckpointError(f"the settings give several sample rates (fs, sample_rate): {rates}")
    bands = roles["ends"].get("band_config", str)
    if bands != "musical":
        raise CheckpointError(f"SFC bands {bands!r} (band_config) are not supported; 'musical' are")
    separator = roles["separator"]
    separator.choice("norm_type", {"rmsgroupnorm": None}, "rmsgroupnorm")
    separator.choice("masking", {True: None}, True)
    kinds = separator.get("ffn_type", list, ["swiglu_conv1d"])
    if any(kind != "swiglu_conv1d" for kind in kinds):
        raise CheckpointError(f"ffn_type must be 'swiglu_conv1d' throughout, got {kinds}")
    return Settings(**roles, sample_rate=rates[0])


def complete(
    settings: Settings, state: dict[str, Tensor], names: Sequence[str], weights: Literal["ema", "raw"]
) -> tuple[BsLocoformerConfig, dict[str, Tensor], dict[str, str]]:
    """Our configuration, the network's own tensors, and which copy of the weights they are.

    Args:
        settings: from `read_config`.
        state: all tensors by published key.
        names: of files and folders; the data set among them tells the sources' order.
        weights: "ema" where there is such a copy, or "raw".
    """
    core, copy = _core(state, weights)
    if any(".forward_block." in key or ".backward_block." in key for key in core):
        raise CheckpointError("an SFC-Mamba checkpoint (forward_block, backward_block); only SFC-CA is supported")
    shape = _Shapes(core)
    dim, planes = shape("encoder.input_conv.0.weight", 4)[:2]
    _, heads, bands, bins = shape("encoder.block.mixer.pos_bias.pos_bias", 4)
    width = shape("encoder.output_conv.0.weight", 4)[0]
    channels = planes // 2
    sources = shape("decoder.output_conv.weight", 4)[1] // max(planes, 1)
    ffn = "encoder.block.feed_forward.linear2.weight"
    n_fft, hop = 2 * (bins - 1), settings.wrapper.get("hop_length", int)
    sfc = SfcConfig(
        dim=dim,
        heads=heads,
        count=bands,
        query="learnable" if "encoder.query" in core else "adaptive",
        bias="learned" if settings.attention.get("learnable_pos_bias", bool, True) else "stored",
        learned_slope=settings.attention.get("learnable_slope", bool, False),
        mask_outside="encoder.block.mixer.pos_bias.attention_mask" in core,
        ffn=shape(ffn, 2)[1] // dim if ffn in core else 0,
    )
    stack = _stack(settings.separator, shape, width)
    agree: dict[str, dict[str, Any]] = {
        "separator": {
            "n_layers": stack.blocks, "emb_dim": width, "attention_dim": stack.attention_dim, "n_src": sources,
            "ffn_hidden_dim": [ffn.hidden for ffn in stack.freq_ffn], "conv1d_kernel": stack.freq_ffn[0].kernel,
        },
        "ends": {
            "d_inner": dim, "d_model": width, "n_bands": bands, "n_chan": channels, "n_src": sources, "n_fft": n_fft,
            "query_type": sfc.query,
        },
        "attention": {"n_heads": heads, "mask_outside_bands": sfc.mask_outside, "use_ffn": sfc.ffn > 0},
        "wrapper": {"n_fft": n_fft},
    }  # fmt: skip
    for role, facts in agree.items():
        table: Table = getattr(settings, role)
        for name, value in facts.items():
            if table.data.get(name, value) != value:
                raise CheckpointError(f"{table.where} say {name} {table.data[name]!r}, the weights {value!r}")
    config = BsLocoformerConfig(
        sample_rate=settings.sample_rate,
        stft=StftConfig(n_fft, hop, n_fft, window="hann", padding="reflect", drop_last_frame=True),
        sources=sources,
        first=stack,
        level=LevelConfig(settings.wrapper.get("scaling", bool, True), SFC_LEVEL.eps, SFC_LEVEL.domain),
        labels=_labels(names, sources),
        segment_seconds=settings.wrapper.get("css_segment_size", float, 12.0),
        sfc=sfc,
        channels=channels,
    )
    return config, core, {"copy": copy}


def _core(state: dict[str, Tensor], weights: str) -> tuple[dict[str, Tensor], str]:
    """The network's tensors without prefixes, of one copy, and which: windows, counters and index tables left out."""
    averaged = {key.removeprefix(EMA): value for key, value in state.items() if key.startswith(EMA)}
    raw = {key: value for key, value in state.items() if not key.startswith("ema_model.")}
    copy = "ema" if averaged and weights == "ema" else "raw"
    core: dict[str, Tensor] = {}
    for key, value in (averaged if copy == "ema" else raw).items():
        short = re.sub(r"^(model\.)+", "", key)
        if not value.is_floating_point() or re.fullmatch(r"(stft\.\d+|istft)\.window", short):
            continue
        if short in core:
            raise CheckpointError(f"the weights hold {short} twice, with and without a prefix")
        core[short] = value
    if not core:
        raise CheckpointError(f"there are no {copy} weights in it")
    return core, copy


class _Shapes:
    """Shapes of tensors that must be there."""

    def __init__(self, core: dict[str, Tensor]):
        self.core = core

    def __call__(self, key: str, axes: int) -> tuple[int, ...]:
        found = self.core.get(key)
        if found is None or found.dim() != axes:
            what = "is missing" if found is None else f"has {found.dim()} axes instead of {axes}"
            raise CheckpointError(f"not the weights of an SFC-CA separator: {key} {what}")
        return tuple(found.shape)


def _stack(table: Table, shape: _Shapes, dim: int) -> StackConfig:
    numbers = [int(key.split(".")[1]) for key in shape.core if re.match(r"blocks\.\d+\.", key)]
    stride = table.get("conv1d_shift", int, 1)

    def ffns(path: str) -> tuple[FfnConfig, ...]:
        base = f"blocks.0.{path}.ffn"
        rows = []
        # Stored in reverse: 0 is the layer after the attention.
        for index in (1, 0) if f"{base}.1.conv1d.weight" in shape.core else (0,):
            double, _, kernel = shape(f"{base}.{index}.conv1d.weight", 3)
            rows.append(FfnConfig(double // 2, kernel, stride))
        return tuple(rows)

    return StackConfig(
        blocks=max(numbers, default=-1) + 1,
        dim=dim,
        groups=table.get("num_groups", int),
        heads=table.get("n_heads", int),
        attention_dim=shape("blocks.0.freq_path.attn.aggregate_heads.0.weight", 2)[1],
        freq_ffn=ffns("freq_path"),
        time_ffn=ffns("frame_path"),
        order=table.choice("tf_order", {"ft": "ft", "tf": "tf"}, "ft"),
        eps=table.get("eps", float, 1e-5),
        rope=False,
    )


def _labels(names: Sequence[str], sources: int) -> tuple[str, ...]:
    """The data set's sources in the order of its recipe, if a name tells the data set."""
    for data, labels in SFC_LABELS.items():
        if len(labels) == sources and any(re.search(rf"(?<![a-z]){data}", name.lower()) for name in names):
            return labels
    return ()


def read_weights(state: dict[str, Tensor], config: BsLocoformerConfig) -> dict[str, Tensor]:
    """Our tensors from the network's published ones, strictly."""
    assert config.sfc is not None
    keys = Keys(state)
    out = read_stack(keys, "blocks", "first", config.first)
    for end in ("encoder", "decoder"):
        out |= _read_block(keys, end, config.sfc)
        for place in ("input_conv", "output_conv"):
            inner = f"{end}.{place}" + (".0" if end == "encoder" else "")
            weight = keys.take(f"{inner}.weight")
            if end == "decoder" and weight.dim() == 4:  # a transposed convolution as an ordinary one
                weight = weight.transpose(0, 1).flip(2, 3)
            out |= {f"{end}.{place}.weight": weight, f"{end}.{place}.bias": keys.take(f"{inner}.bias")}
        if config.sfc.query == "learnable":
            out[f"{end}.query"] = keys.take(f"{end}.query")
    for place in ("input", "output"):
        out[f"encoder.{place}_norm.weight"] = keys.take(f"encoder.{place}_conv.2.weight")
    if config.sfc.query == "adaptive":
        out["encoder.bin_weights"] = keys.take("encoder.freq_weights")
        out["decoder.query_norm.weight"] = keys.take("decoder.query_mlp.0.weight")
        out |= _read_swiglu(keys, "decoder.query_mlp.1", "decoder.query_mlp")
    keys.finish("SFC-CA separator")
    return out


def _read_block(keys: Keys, end: str, sfc: SfcConfig) -> dict[str, Tensor]:
    theirs, ours = f"{end}.block", f"{end}.attention"
    kv = keys.take(f"{theirs}.mixer.kv_proj.weight")
    if kv.dim() == 2:  # keys and values alternate head by head; here all keys come first
        kv = kv.unflatten(0, (sfc.heads, 2, -1)).transpose(0, 1).flatten(0, 2)
    out = {
        f"{ours}.kv.weight": kv,
        f"{ours}.q.weight": keys.take(f"{theirs}.mixer.q_proj.weight"),
        f"{ours}.out.weight": keys.take(f"{theirs}.mixer.aggregate_heads.0.weight"),
        f"{ours}.bias": keys.take(f"{theirs}.mixer.pos_bias.pos_bias").squeeze(0),
        f"{ours}.slope": keys.take(f"{theirs}.mixer.pos_bias.slope").flatten(),
        f"{ours}.norm_q.weight": keys.take(f"{theirs}.norm_attn_q.weight"),
        f"{ours}.norm_kv.weight": keys.take(f"{theirs}.norm_attn_kv.weight"),
    }
    if sfc.mask_outside:
        out[f"{ours}.mask"] = keys.take(f"{theirs}.mixer.pos_bias.attention_mask").squeeze(0)
    if sfc.ffn:
        out[f"{ours}.norm_ffn.weight"] = keys.take(f"{theirs}.norm_ffn.weight")
        out |= _read_swiglu(keys, f"{theirs}.feed_forward", f"{ours}.ffn")
    return out


def _read_swiglu(keys: Keys, theirs: str, ours: str) -> dict[str, Tensor]:
    layers = {"linear1": "inner", "linear2": "outer"}
    kinds = ("weight", "bias")
    return {f"{ours}.{b}.{kind}": keys.take(f"{theirs}.{a}.{kind}") for a, b in layers.items() for kind in kinds}
