"""What a loudspeaker plays while work is in time, and what it plays instead while it is not."""

from collections import deque

import numpy as np

from ussfast.streaming.live.crossfade import FADE_S
from ussfast.streaming.live.ring import Ring

AGAIN_S = 10.0  # an overrun this soon after another: the work needs more time than it has


class Playout:
    """Plays what is made of a sound, every frame in its place, and where it is late the sound itself, equally late.

    One fades into the other within a block. Where that begins after the last made frame, its end is played backwards
    meanwhile, so that nothing jumps. Frames that come after their place was played are left out; if work is late
    again soon, all is played a block later from then on, as far as the memory of the sound allows.

    For the thread of a sound card: nothing here waits.

    Attributes: overruns (how often the sound itself took over).

    Args:
        inputs, outputs: channels of the sound, and of what is made of it. Where they are not equal, silence stands for
            the sound.
        capacity: of the memory of the sound, in frames.
        sample_rate: in Hz.
    """

    def __init__(self, inputs: int, outputs: int, capacity: int, sample_rate: int):
        self._capacity = capacity
        self._dry = np.zeros((outputs, capacity), np.float32) if inputs == outputs else None
        self._fade, self._again = max(1, round(FADE_S * sample_rate)), round(AGAIN_S * sample_rate)
        self._arrived = self._taken = 0  # frames of the sound; those that will be worked on
        self._at = self._made_at = 0  # places in the sound: of what is played next, of the next made frame
        self._gaps = deque[tuple[int, int]]()  # (made frame that it is before, frames of the sound that are missing)
        self._made = self._since = 0  # made frames so far; frames since the last overrun
        self._last = np.zeros((outputs, 0), np.float32)  # made frames that were played last
        self._begun, self._wet, self._more = False, True, False
        self.overruns = 0

    def arrived(self, audio: np.ndarray, taken: int) -> None:
        """The next frames of the sound, float [inputs, n]; `taken` of them will be worked on, the others never."""
        count = audio.shape[1]
        self._arrived, self._taken = self._arrived + count, self._taken + taken
        if self._dry is not None:
            kept = audio[:, -self._capacity :]
            self._dry[:, np.arange(self._arrived - kept.shape[1], self._arrived) % self._capacity] = kept
        if taken < count:
            self._gaps.append((self._taken, count - taken))

    def play(self, made: Ring, out: np.ndarray) -> None:
        """Fills `out` [outputs, n]; with silence until n made frames are there for the first time."""
        frames = out.shape[1]
        if not self._begun and len(made) < frames:
            out[:] = 0
            return
        if not self._begun:  # no later than there is room for what is made meanwhile
            self._begun, self._at = True, max(0, self._arrived - max(self._capacity - 2 * frames, 2 * frames))
        self._since += frames
        before, dry_at = self._wet, self._at
        self._catch_up(made, frames)
        if not before and self._wet:
            self._at = self._made_at
        wet = out if before and self._wet else np.empty_like(out)
        if before or self._wet:
            self._read(made, wet)
        if not (before and self._wet):
            share = self._share(frames, before)
            out[:] = self._sound(dry_at, frames)
            out += share * (wet - out) if before or self._wet else 0
        self._at += frames

    def _catch_up(self, made: Ring, frames: int) -> None:
        """Leaves out what is too late, and decides which of the two is to be heard."""
        behind = self._at - self._made_at
        room = self._capacity - (self._arrived - self._at) - 2 * frames
        later = frames if self._more and not self._wet and room >= 0 else 0
        if behind > later:
            self._count(made.skip(behind - later))
            behind = self._at - self._made_at
        there = 0 <= behind <= later and len(made) >= frames
        if self._wet and not there:
            self.overruns += 1
            self._more, self._since = self.overruns > 1 and self._since < self._again, 0
        self._wet = there

    def _read(self, made: Ring, wet: np.ndarray) -> None:
        """Made frames, and after the last of them the same backwards."""
        got = made.read(wet) if self._at == self._made_at else 0
        self._count(got)
        told = np.concatenate((self._last, wet[:, :got]), 1)
        back = told[:, ::-1][:, : wet.shape[1] - got]
        wet[:, got : got + back.shape[1]] = back
        wet[:, got + back.shape[1] :] = 0
        self._last = told[:, -self._fade :]

    def _count(self, frames: int) -> None:
        """So many made frames were taken out of the queue."""
        self._made, self._made_at = self._made + frames, self._made_at + frames
        while self._gaps and self._gaps[0][0] <= self._made:
            self._made_at += self._gaps.popleft()[1]

    def _share(self, frames: int, before: bool) -> np.ndarray:
        """Of what is made, at each frame."""
        fade = min(self._fade, frames)
        rising = np.minimum(np.arange(1, frames + 1, dtype=np.float32) / fade, 1)
        return 1 - rising if before else rising

    def _sound(self, at: int, frames: int) -> np.ndarray:
        """The sound itself, [outputs, frames], from this place on; silence where it is remembered no more."""
        if self._dry is None or at < self._arrived - self._capacity:
            return np.zeros((len(self._last), frames), np.float32)
        return self._dry[:, np.arange(at, at + frames) % self._capacity]
