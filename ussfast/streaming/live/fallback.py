"""A session that is heard while its work is in time, and gives way to its input while it is not."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ussfast.streaming.live.crossfade import Crossfade
from ussfast.streaming.live.kept import Kept
from ussfast.streaming.live.lateness import Lateness

if TYPE_CHECKING:
    from ussfast.streaming.session import Session

SETTLE_S = 0.1  # after a pause, until frames no longer hear the cut


class Fallback:
    """What is kept of a stream, as long as its input and `latency_samples` late, whatever the work takes.

    Attributes: bypass (set it to hear the input), dry_s (seconds of audio that were not separated).

    Args:
        session: of known channels, at its beginning.
        kept: what is heard of its pieces.
        fade: samples from one to the other.
        late_s: delay that slow work may add; at least two hops, which some models compute at once.
        clock: in seconds.
    """

    def __init__(
        self,
        session: "Session",
        channels: int,
        kept: Kept,
        fade: int,
        late_s: float,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._session, self._channels, self._kept, self._fade, self._clock = session, channels, kept, fade, clock
        self._late = Lateness(max(late_s, 2 * session.hop_seconds))
        self._rate = session.sample_rate
        self.latency_samples = math.ceil(round(session.latency * self._rate, 6))
        self.bypass, self.dry_s = False, 0.0
        self.begin()

    @property
    def overruns(self) -> int:
        """How often work was too late."""
        return self._late.overruns

    def begin(self) -> None:
        """Another stream; the session begins another one, too."""
        self._late.begin()
        settle = min(self.latency_samples, round(SETTLE_S * self._rate))
        self._line = Crossfade(self._channels, self.latency_samples, self._fade, settle)

    def push(self, audio: np.ndarray) -> np.ndarray:
        """Takes float32 [channels, n], any n; gives as many, late."""
        return self._step(audio, False)

    def flush(self) -> np.ndarray:
        """The last `latency_samples`; `begin` has to follow."""
        return self._step(np.zeros((self._channels, self.latency_samples), np.float32), True)

    def _step(self, audio: np.ndarray, last: bool) -> np.ndarray:
        if self._wet and not self._line.running and not last:
            self._line.resume()
        seconds, begin = audio.shape[1] / self._rate, self._clock()
        if self._line.running:
            piece = self._session.flush() if last else self._session.push(audio)
            self._line.made(0 if last else audio.shape[1], self._kept(piece, self._session.labels))
            self._late.spent(self._clock() - begin, seconds)
        else:
            self._late.spent(0.0, seconds)
            self.dry_s += seconds
        out = self._line.step(audio, self._wet)
        if self._line.running and self._line.is_dry and not self._wet:
            self._line.pause()
        return out

    @property
    def _wet(self) -> bool:
        """Whether separated sound is wanted, and there is time to make it."""
        return self._late.keeps_up and not self.bypass
