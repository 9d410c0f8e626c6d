"""What a live filter keeps, and how it behaves when it is late."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from ussfast.engine.settings import MOST_ATTENUATION
from ussfast.errors import PromptError
from ussfast.plain import Checked, Range
from ussfast.prompts.names import RESIDUAL, as_names
from ussfast.streaming.live.card import QUEUE_SECONDS


@dataclass(frozen=True)
class Wanted:
    """keep: labels that are heard. asked: prompts of the session, or None where a model has its own sources."""

    keep: tuple[str, ...]
    asked: tuple[str, ...] | None


@dataclass(frozen=True)
class FilterConfig(Checked):
    """
    keep: what is heard: a prompt or several, or "residual", which is what no prompt took.
    drop: prompts that are asked for as well and not heard. With keep="residual" they are what is taken out; models
        whose prompts see one another separate better when they are told of them.
    max_attenuation: in dB: nothing is pushed further down than that, as `ussfast stream --max-attenuation`.
    format: of bytes: "s16le" or "f32le", interleaved.
    fade_ms: of every cross-fade.
    max_late_s: delay that slow work may add before the sound goes by as it is; at least two hops of the model.
    """

    keep: tuple[str, ...] | str
    drop: tuple[str, ...] | str = ()
    max_attenuation: Annotated[float | None, Range(0, MOST_ATTENUATION)] = None
    format: Literal["s16le", "f32le"] = "s16le"
    fade_ms: Annotated[float, Range(1, 1000)] = 10.0
    max_late_s: Annotated[float, Range(0.01, 60)] = QUEUE_SECONDS

    def __post_init__(self) -> None:
        for name in ("keep", "drop"):
            object.__setattr__(self, name, as_names(getattr(self, name)))
        super().__post_init__()

    @classmethod
    def of(cls, given: "FilterConfig | Sequence[str] | str") -> "FilterConfig":
        """It itself, or the config that keeps these prompts."""
        return given if isinstance(given, FilterConfig) else cls(keep=as_names(given))

    @property
    def floor(self) -> float:
        """The gain that everything keeps at least."""
        return 0.0 if self.max_attenuation is None else 10.0 ** (-self.max_attenuation / 20)


def wanted(keep: Sequence[str] | str, drop: Sequence[str] | str, own: tuple[str, ...]) -> Wanted:
    """What to ask a session for.

    Args:
        own: labels of a model that takes no prompts; none for one that does.
    Raises:
        PromptError: nothing to keep or nothing to ask for, a name twice, "residual" to drop, or names of no source.
    """
    keep, drop = as_names(keep), as_names(drop)
    names = (*keep, *drop)
    if not keep:
        raise PromptError("nothing is kept: name at least one prompt to keep, or 'residual'")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise PromptError(f"{twice[0]!r} is named twice in what to keep and to drop: once is right")
    if RESIDUAL in drop:
        raise PromptError(f"{RESIDUAL!r} is what no prompt took: it can be kept, and is dropped otherwise")
    asked = tuple(name for name in names if name != RESIDUAL)
    if own:
        if unknown := [name for name in asked if name not in own]:
            raise PromptError(f"this model has no source {unknown[0]!r}; there are {', '.join(own)}")
        return Wanted(keep, None)
    if not asked:
        raise PromptError(f"to keep {RESIDUAL!r}, name a prompt to drop: it is what that does not take")
    return Wanted(keep, asked)
