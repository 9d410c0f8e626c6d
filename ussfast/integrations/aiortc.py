"""A track for aiortc: `peer.addTrack(SeparatedTrack(track, separator, "speech"))`."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ussfast.errors import AudioError, InputError
from ussfast.integrations.config import FilterConfig
from ussfast.integrations.following import FollowingFilter
from ussfast.separator import Separator

try:
    from aiortc import MediaStreamError, MediaStreamTrack
    from av import AudioFrame
except ImportError as error:
    raise ImportError(f"tracks for aiortc need aiortc: pip install 'ussfast[aiortc]' ({error})") from error

FORMATS = ("s16", "s16p", "flt", "fltp")  # of PyAV; those that end with p are not interleaved


class SeparatedTrack(MediaStreamTrack):
    """Another audio track, of which the sounds that are asked for are kept.

    Frames have the form and time stamps of those that come in, and the sound of a little earlier. It ends with that
    track, and stops it when it is stopped.

    Attributes: live (the `FollowingFilter`: prompts, bypass, overruns).

    Args:
        track: of audio.
        separator, config, settings: as for `LiveFilter`.
    Raises:
        InputError: a track of video. PromptError.
    """

    kind = "audio"

    def __init__(
        self, track: MediaStreamTrack, separator: Separator, config: FilterConfig | Sequence[str] | str, **settings: Any
    ):
        super().__init__()
        if track.kind != "audio":
            raise InputError(f"a track of audio is needed, not of {track.kind}")
        self.live = FollowingFilter(separator, config, **settings)
        self._track = track

    async def recv(self) -> AudioFrame:
        """The next frame. Raises MediaStreamError at the end, AudioError for samples of another type than FORMATS."""
        if self.readyState != "live":
            raise MediaStreamError
        try:
            frame = await self._track.recv()
        except MediaStreamError:
            self.stop()
            raise
        form = frame.format.name
        if form not in FORMATS:
            raise AudioError(f"frames of {form} cannot be separated: resample to one of {', '.join(FORMATS)}")
        channels = frame.layout.nb_channels
        samples = frame.to_ndarray()
        planar = form.endswith("p")
        audio = samples if planar else np.ascontiguousarray(samples.reshape(-1, channels).T)
        out = self.live.open(frame.sample_rate, channels).process(audio)
        out = np.ascontiguousarray(out if planar else out.T.reshape(1, -1))
        made = AudioFrame.from_ndarray(out, format=form, layout=frame.layout.name)
        made.sample_rate, made.pts, made.time_base = frame.sample_rate, frame.pts, frame.time_base
        return made

    def stop(self) -> None:
        super().stop()
        self._track.stop()
        self.live.close()
