"""A filter for Pipecat: `TransportParams(audio_in_filter=SeparationFilter(separator, "speech"))`."""

from collections.abc import Sequence
from typing import Any

from ussfast.errors import InputError
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.following import FollowingFilter
from ussfast.separator import Separator

try:
    from pipecat.audio.filters.base_audio_filter import BaseAudioFilter
    from pipecat.frames.frames import FilterControlFrame, FilterEnableFrame, FilterUpdateSettingsFrame
except ImportError as error:
    raise ImportError(f"filters for Pipecat need pipecat-ai: pip install 'ussfast[pipecat]' ({error})") from error

SETTINGS = ("keep", "drop")


class SeparationFilter(BaseAudioFilter):
    """Keeps the sounds that are asked for, in 16 bits.

    `FilterEnableFrame` fades over to the input itself and back; `FilterUpdateSettingsFrame({"keep": ..., "drop": ...})`
    changes what is kept.

    Attributes: live (the `FollowingFilter`: prompts, overruns).

    Args:
        separator, config, settings: as for `LiveFilter`.
        channels: of the transport's audio.
    Raises:
        PromptError, InputError.
    """

    def __init__(
        self, separator: Separator, config: FilterConfig | Sequence[str] | str, channels: int = 1, **settings: Any
    ):
        self.live = FollowingFilter(separator, config, format="s16le", **settings)
        self._channels, self._rate = channels, 0

    async def start(self, sample_rate: int) -> None:
        self._rate = sample_rate
        self.live.open(sample_rate, self._channels)

    async def stop(self) -> None:
        self.live.close()

    async def process_frame(self, frame: FilterControlFrame) -> None:
        """Raises InputError, PromptError for settings and prompts that there are not; nothing has changed then."""
        if isinstance(frame, FilterEnableFrame):
            self.live.bypass = not frame.enable
        elif isinstance(frame, FilterUpdateSettingsFrame):
            if unknown := [name for name in frame.settings if name not in SETTINGS]:
                raise InputError(f"no setting {unknown[0]!r}; there are {', '.join(SETTINGS)}")
            if frame.settings:
                now = {"keep": self.live.keep, "drop": self.live.drop}
                self.live.set_prompts(**now | frame.settings)

    async def filter(self, audio: bytes) -> bytes:
        """As much as goes in, late by the latency of the filter. Raises InputError before `start`."""
        if not self._rate:
            raise InputError("the filter was not started: start(sample_rate) comes first")
        return self.live.open(self._rate, self._channels).process(audio)
