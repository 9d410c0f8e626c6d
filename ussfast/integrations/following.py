"""A live filter for programs that tell the form of their audio with the audio."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Literal

from ussfast.integrations.config import FilterConfig
from ussfast.integrations.live_filter import LiveFilter
from ussfast.prompts.bank import Prompt
from ussfast.prompts.names import as_names
from ussfast.separator import Separator


class FollowingFilter:
    """A `LiveFilter`, and another one where rate or channels of the audio change.

    Attributes: filter (the one of now), overruns (of all of them).

    Args:
        separator, config, settings: as for `LiveFilter`.
        format: of bytes, in place of the config's.
    Raises:
        PromptError, InputError.
    """

    def __init__(
        self,
        separator: Separator,
        config: FilterConfig | Sequence[str] | str,
        *,
        format: Literal["s16le", "f32le"] | None = None,
        **settings: Any,
    ):
        self._settings, self._overruns = settings, 0
        config = FilterConfig.of(config)
        config = config if format is None else replace(config, format=format)
        self.filter = LiveFilter(separator, separator.sample_rate, config, **settings)
        self.keep, self.drop = as_names(config.keep), as_names(config.drop)

    @property
    def overruns(self) -> int:
        return self._overruns + self.filter.overruns

    @property
    def bypass(self) -> bool:
        """Whether the input itself is to be heard; see `LiveFilter`."""
        return self.filter.bypass

    @bypass.setter
    def bypass(self, value: bool) -> None:
        self.filter.bypass = value

    def open(self, sample_rate: int, channels: int = 1) -> LiveFilter:
        """The filter for audio of this form; one of another form ends without its rest."""
        former = self.filter
        if (former.sample_rate, former.channels) == (sample_rate, channels):
            return former
        config = replace(former.config, keep=self.keep, drop=self.drop)
        new = LiveFilter(former.separator, sample_rate, config, channels, **self._settings)
        former.close()
        new.bypass, self._overruns, self.filter = former.bypass, self.overruns, new
        return new

    def set_prompts(self, keep: Sequence[str] | str, drop: Sequence[str] | str = ()) -> None:
        """As that of `LiveFilter`."""
        keep, drop = as_names(keep), as_names(drop)
        self.filter.set_prompts(keep, drop)
        self.keep, self.drop = keep, drop

    def enroll(self, name: str, clips: Iterable[Any], sample_rate: int | None = None) -> Prompt:
        """As that of `LiveFilter`."""
        return self.filter.enroll(name, clips, sample_rate)

    def close(self) -> None:
        """Ends the stream without its rest; the next audio begins another."""
        self.filter.close()
        self.filter.reset()
