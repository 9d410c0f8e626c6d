"""Frozen configuration dataclasses: pieces that architectures share, what may stand in them, and their JSON."""

import dataclasses
from typing import Annotated, Any, Literal

from ussfast.errors import InputError
from ussfast.plain import Checked, Range, Word, from_dict

__all__ = ["FfnConfig", "LevelConfig", "StackConfig", "from_dict", "to_dict"]

# Far beyond what is published; the weights tell the rest (`ussfast.checkpoints.store.fill`).
Width = Annotated[int, Range(1, 16384)]
Heads = Annotated[int, Range(1, 1024)]
Blocks = Annotated[int, Range(1, 1000)]
Sources = Annotated[int, Range(1, 256)]  # as many as `ussfast.checkpoints.names` looks at
Rate = Annotated[int, Range(1000, 384_000)]
Seconds = Annotated[float, Range(0.05, 3600)]
Names = Annotated[tuple[Annotated[str, Word(100)], ...], Range(0, 1000)]
Bands = Annotated[tuple[Width, ...], Range(1, 4096)]
Expansion = Annotated[int, Range(1, 64)]


@dataclasses.dataclass(frozen=True)
class FfnConfig(Checked):
    """One convolutional SwiGLU feed-forward layer: hidden channels, kernel and stride along the sequence."""

    hidden: Width
    kernel: Annotated[int, Range(1, 1024)] = 1
    stride: Annotated[int, Range(1, 1024)] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.stride > self.kernel:
            raise InputError(f"need stride <= kernel, got {self}")


@dataclasses.dataclass(frozen=True)
class StackConfig(Checked):
    """A stack of TF-Locoformer blocks.

    freq_ffn and time_ffn: one entry (after the attention) or two (before and after it, "Macaron").
    rope: whether attention knows positions (rotary).
    """

    blocks: Blocks
    dim: Width
    groups: Width
    heads: Heads
    attention_dim: Width
    freq_ffn: Annotated[tuple[FfnConfig, ...], Range(1, 2)]
    time_ffn: Annotated[tuple[FfnConfig, ...], Range(1, 2)]
    order: Literal["ft", "tf"] = "ft"
    norm: Literal["rms_group_norm", "layer_norm"] = "rms_group_norm"
    eps: Annotated[float, Range(1e-15, 1)] = 1e-5
    rope: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.dim % self.groups:
            raise InputError(f"groups {self.groups} must divide dim {self.dim}")
        if self.attention_dim % (2 * self.heads if self.rope else self.heads):
            kind = "an even multiple" if self.rope else "a multiple"
            raise InputError(f"attention_dim {self.attention_dim} must be {kind} of heads {self.heads}")


@dataclasses.dataclass(frozen=True)
class LevelConfig(Checked):
    """Level normalisation, undone at the end; one level per item, of all its channels.

    domain: "waveform" divides by the standard deviation (unbiased) + eps; "stft" by the root of the mean power over
        bins and frames, where a power below eps counts as eps (SFC).
    """

    enabled: bool = True
    eps: Annotated[float, Range(0, 1)] = 1e-8
    domain: Literal["waveform", "stft"] = "waveform"


def check_labels(labels: tuple[str, ...], sources: int) -> None:
    """InputError unless there are none, or one for each source."""
    if labels and (len(labels) != sources or len(set(labels)) != sources):
        raise InputError(f"sources {sources} and labels {list(labels)} do not fit together")


def check_prompts(prompts: tuple[str, ...]) -> None:
    if not prompts or len(set(prompts)) != len(prompts):
        raise InputError(f"prompts must be distinct names, at least one, got {list(prompts)}")


def to_dict(config: Any) -> dict[str, Any]:
    """The plain-JSON form of a configuration dataclass."""
    return dataclasses.asdict(config)
