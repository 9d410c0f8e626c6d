"""Separated sound and the sound that it is of, side by side, so that one can take the other's place at any sample."""

import numpy as np

FADE_S = 0.01  # from one to the other, where nothing else is asked for


class Crossfade:
    """Sound as it came ("dry") and what was made of it ("wet"), equally late, and a fade from one to the other.

    Wet sound comes as a session gives it: without a delay of its own at the beginning, but later than its input, by
    `delay` samples at most. It may pause: what goes in meanwhile is heard dry.

    Args:
        channels: of both.
        delay: in samples, of everything that comes out.
        fade: samples from one to the other.
        settle: samples after a pause that the wet sound needs until it no longer hears the cut.
    """

    def __init__(self, channels: int, delay: int, fade: int, settle: int):
        self._delay, self._fade, self._settle = delay, fade, settle
        self._dry = self._wet = np.zeros((channels, delay), np.float32)
        self._place = fade  # of `fade`: how much is wet
        self._inside = self._stale = self._unready = 0
        self.running = True

    @property
    def is_dry(self) -> bool:
        """Whether nothing wet is heard."""
        return self._place == 0

    def pause(self) -> None:
        """No wet sound is made from here on; what is ready is dropped, so only what is dry may be heard."""
        assert self.is_dry
        self.running = False

    def resume(self) -> None:
        """Wet sound is made again of what goes in from here on."""
        self.running = True
        # First the session gives what it still had in it when the pause began.
        self._stale = self._inside
        self._wet = np.zeros_like(self._dry)
        self._unready = self._delay + self._settle

    def made(self, taken: int, wet: np.ndarray) -> None:
        """So many samples went into the session, and these came out, float32 [channels, m]."""
        self._inside += taken - wet.shape[1]
        stale = min(self._stale, wet.shape[1])
        self._stale -= stale
        self._wet = np.concatenate((self._wet, wet[:, stale:]), 1)

    def step(self, audio: np.ndarray, wanted: bool) -> np.ndarray:
        """As much as goes in, float32 [channels, n], `delay` samples late; wanted: fade to, or stay with, what is wet.

        While it runs, what was made of this audio has to be told first.
        """
        count = audio.shape[1]
        line = np.concatenate((self._dry, audio), 1)
        dry, self._dry = line[:, :count], line[:, count:].copy()
        if not self.running:
            return dry
        assert self._wet.shape[1] >= count, "the session is later than its latency"
        wet, self._wet = self._wet[:, :count], self._wet[:, count:].copy()
        if not count or (wanted and self._place == self._fade):  # as nearly always
            return wet
        places = self._places(count, wanted)
        return dry + (places / np.float32(self._fade)).astype(np.float32) * (wet - dry)

    def _places(self, count: int, wanted: bool) -> np.ndarray:
        silent = min(self._unready, count) if self._place == 0 else 0
        self._unready = max(0, self._unready - count)
        steps = np.maximum(np.arange(1, count + 1) - silent, 0)
        places = np.clip(self._place + (steps if wanted else -steps), 0, self._fade)
        self._place = int(places[-1])
        return places
