"""Frozen configuration dataclasses: the pieces that architectures share, and their strict JSON form."""

import dataclasses
import types
import typing
from typing import Any, Literal, TypeVar, cast

from ussfast.errors import CheckpointError, InputError

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class FfnConfig:
    """One convolutional SwiGLU feed-forward layer: hidden channels, kernel and stride along the sequence."""

    hidden: int
    kernel: int = 1
    stride: int = 1

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 1 <= self.stride <= self.kernel:
            raise InputError(f"need hidden >= 1 and 1 <= stride <= kernel, got {self}")


@dataclasses.dataclass(frozen=True)
class StackConfig:
    """A stack of TF-Locoformer blocks.

    freq_ffn and time_ffn: one entry (after the attention) or two (before and after it, "Macaron").
    rope: whether attention knows positions (rotary).
    """

    blocks: int
    dim: int
    groups: int
    heads: int
    attention_dim: int
    freq_ffn: tuple[FfnConfig, ...]
    time_ffn: tuple[FfnConfig, ...]
    order: Literal["ft", "tf"] = "ft"
    norm: Literal["rms_group_norm", "layer_norm"] = "rms_group_norm"
    eps: float = 1e-5
    rope: bool = True

    def __post_init__(self) -> None:
        if self.groups < 1 or self.dim % self.groups:
            raise InputError(f"groups {self.groups} must divide dim {self.dim}")
        if self.heads < 1 or self.attention_dim % (2 * self.heads if self.rope else self.heads):
            kind = "an even multiple" if self.rope else "a multiple"
            raise InputError(f"attention_dim {self.attention_dim} must be {kind} of heads {self.heads}")
        for ffn in (self.freq_ffn, self.time_ffn):
            if len(ffn) not in (1, 2):
                raise InputError(f"one or two feed-forward layers per path are possible, got {len(ffn)}")


@dataclasses.dataclass(frozen=True)
class LevelConfig:
    """Level normalisation, undone at the end; one level per item, of all its channels.

    domain: "waveform" divides by the standard deviation (unbiased) + eps; "stft" by the root of the mean power over
        bins and frames, where a power below eps counts as eps (SFC).
    """

    enabled: bool = True
    eps: float = 1e-8
    domain: Literal["waveform", "stft"] = "waveform"


def to_dict(config: Any) -> dict[str, Any]:
    """The plain-JSON form of a configuration dataclass."""
    return dataclasses.asdict(config)


def from_dict(cls: type[T], data: Any, where: str = "config") -> T:
    """Builds `cls` from its JSON form; unknown, missing and ill-typed entries are CheckpointErrors that name them."""
    if not isinstance(data, dict):
        raise CheckpointError(f"{where} must be a table of settings, got {type(data).__name__}")
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cast(Any, cls))}
    unknown = sorted(set(data) - set(fields))
    missing = sorted(
        name
        for name, f in fields.items()
        if name not in data
        and f.default is dataclasses.MISSING
        and f.default_factory is dataclasses.MISSING
    )
    if unknown or missing:
        raise CheckpointError(
            f"{where} does not describe a {cls.__name__}: unknown {unknown or 'none'}, missing {missing or 'none'}"
        )
    values = {name: _convert(hints[name], value, f"{where}.{name}") for name, value in data.items()}
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    """`value` from JSON as the type `hint`; only the kinds of hints that the dataclasses here use."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if dataclasses.is_dataclass(hint):
        return from_dict(cast(type, hint), value, where)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise CheckpointError(f"{where} must be one of {list(args)}, got {value!r}")
        return value
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise CheckpointError(f"{where} must be a list, got {value!r}")
        return tuple(_convert(args[0], v, f"{where}[{i}]") for i, v in enumerate(value))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise CheckpointError(f"{where} must be a {hint.__name__}, got {value!r}")
    return value
