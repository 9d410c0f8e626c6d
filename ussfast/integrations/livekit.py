"""A frame processor for LiveKit, for `noise_cancellation=` of agents and of `rtc.AudioStream`."""

from collections.abc import Sequence
from typing import Any

from ussfast.integrations.config import FilterConfig
from ussfast.integrations.following import FollowingFilter
from ussfast.separator import Separator

try:
    from livekit import rtc
except ImportError as error:
    raise ImportError(f"processors for LiveKit need livekit: pip install 'ussfast[livekit]' ({error})") from error


class SeparationProcessor(rtc.FrameProcessor[rtc.AudioFrame]):
    """Keeps the sounds that are asked for; frames come out as they went in, with the sound of a little earlier.

    While it is not `enabled` LiveKit passes frames by, without delay. `live.bypass` in place of that keeps the
    delay and cross-fades.

    Attributes: live (the `FollowingFilter`: prompts, bypass, overruns).

    Args:
        separator, config, settings: as for `LiveFilter`. Frames are of 16 bits.
    Raises:
        PromptError, InputError.
    """

    def __init__(self, separator: Separator, config: FilterConfig | Sequence[str] | str, **settings: Any):
        self.live = FollowingFilter(separator, config, format="s16le", **settings)
        self._enabled = True
        self._heard: tuple[str, str] | None = None  # who, and on which track

    @property
    def enabled(self) -> bool:
        return self._enabled

    @enabled.setter
    def enabled(self, value: bool) -> None:
        if value and not self._enabled:
            self.live.close()  # what it heard before the gap is over
        self._enabled = value

    def _on_stream_info_updated(self, *, room_name: str, participant_identity: str, publication_sid: str) -> None:
        heard = participant_identity, publication_sid
        if self._heard not in (None, heard):
            self.live.close()
        self._heard = heard

    def _process(self, frame: rtc.AudioFrame) -> rtc.AudioFrame:
        if not self._enabled:
            return frame
        live = self.live.open(frame.sample_rate, frame.num_channels)
        count = frame.samples_per_channel
        data = live.process(frame.data[: count * frame.num_channels])
        return rtc.AudioFrame(data, frame.sample_rate, frame.num_channels, count, userdata=frame.userdata)

    def _close(self) -> None:
        self.live.close()
