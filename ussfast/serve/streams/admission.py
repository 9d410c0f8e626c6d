"""How many live streams there may be at once: as many as time allows, or as were said."""

import threading
import time

WINDOW_S = 2.0  # in which what streams take is measured
TOGETHER = 4  # streams that must be computed together for a measurement to tell what each costs where there are many
TELLING_S = 0.1  # of such work in a window
RETRY_S = 5.0


class Load:
    """Time that streams take of what there is; a stream of several channels counts as so many.

    Args:
        most: streams at once, None: as many as time allows. headroom: the share of the time that they may take.
        threads: that work.
    Attributes:
        cost: seconds of work for one of audio of one channel, as a share of all threads. busy: share of the time of
            all of them that went into what was due.
    """

    def __init__(self, most: int | None, headroom: float, threads: int = 1):
        self.most, self.headroom, self._threads = most, headroom, threads
        self.streams = self.channels = 0
        self.cost = self.busy = 0.0
        self._lock = threading.Lock()
        self._since = time.perf_counter()
        self._worked = self._together_s = self._audio_s = 0.0

    def tried(self, cost: float) -> None:
        """What a second of audio took a thread before there were any streams."""
        with self._lock:
            self.cost = max(self.cost, cost / self._threads)

    def note(self, worked_s: float, audio_s: float, streams: int, due: float) -> None:
        """A turn of a hub: audio of all channels of so many streams, and the share of it that was due."""
        with self._lock:
            self._worked += worked_s * due
            if streams >= TOGETHER:
                self._together_s += worked_s
                self._audio_s += audio_s
        self._measure()

    def _measure(self) -> None:
        now = time.perf_counter()
        with self._lock:
            passed = now - self._since
            if passed < WINDOW_S:
                return
            self.busy = min(1.0, self._worked / passed / self._threads)
            if self._together_s > TELLING_S:
                measured = self._together_s / self._audio_s / self._threads
                self.cost = measured if not self.cost else 0.7 * self.cost + 0.3 * measured
            self._since, self._worked, self._together_s, self._audio_s = now, 0.0, 0.0, 0.0

    def busy_now(self) -> float:
        """Share of the time that was used lately, also when nothing goes on any more."""
        self._measure()
        return self.busy

    def reason(self, channels: int) -> str | None:
        """Why another stream of so many channels is refused; None if it is not."""
        if self.most is not None and self.streams >= self.most:
            return f"all {self.most} live streams that this server takes are running"
        # Those that are silent now may go on at any moment; and where the machine is busy otherwise, all take longer.
        share = max(self.channels * self.cost, self.busy_now()) + channels * self.cost
        if self.streams and share > self.headroom:
            return (
                f"{self.streams} live streams run, and with another one they would take {share:.0%} of the time, more "
                f"than {self.headroom:.0%}"
            )
        return None

    def room(self, channels: int) -> int:
        """How many more streams of so many channels there may be."""
        left = self.headroom - max(self.channels * self.cost, self.busy_now())
        by_time = int(left / (self.cost * channels) + 1e-9) if self.cost else 1 << 16
        if not self.streams:
            by_time = max(1, by_time)
        return max(0, by_time if self.most is None else min(by_time, self.most - self.streams))

    def take(self, channels: int) -> None:
        self.streams, self.channels = self.streams + 1, self.channels + channels

    def release(self, channels: int) -> None:
        self.streams, self.channels = self.streams - 1, self.channels - channels
