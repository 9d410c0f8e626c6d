"""What a loudspeaker plays when work is late: the sound itself in its place, without a jump."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.streaming.live.playout import Playout
from ussfast.streaming.live.ring import Ring

RATE, FRAMES = 8000, 160
FADE = 80


class Line:
    """A card whose sound is a slow sine; what is made of it is half as loud, and comes when the test says so."""

    def __init__(self, inputs=1, outputs=1, capacity=4000):
        self.queue, self.out = Ring(outputs, capacity), Ring(outputs, capacity)
        self.playout = Playout(inputs, outputs, capacity, RATE)
        self.inputs, self.outputs, self.waiting, self.sent = inputs, outputs, [], 0
        self.capacity, self.played = capacity, np.zeros((outputs, 0), np.float32)

    def sound(self, start, stop):
        return np.sin(2 * np.pi * 50 / RATE * np.arange(start, stop) + 1).astype(np.float32)  # not 0 between blocks

    def block(self, works=True):
        """One callback; `works`: all that waits is made before the next one."""
        audio = np.repeat(self.sound(self.sent, self.sent + FRAMES)[None], self.inputs, 0)
        taken = min(FRAMES, self.capacity - sum(stop - start for start, stop in self.waiting))
        self.waiting.append((self.sent, self.sent + taken))
        self.sent += FRAMES
        self.playout.arrived(audio, taken)
        out = np.full((FRAMES, self.outputs), np.nan, np.float32)
        self.playout.play(self.out, out.T)
        self.played = np.concatenate((self.played, out.T), 1)
        if works:
            self.work(len(self.waiting))

    def work(self, blocks):
        for start, stop in self.waiting[:blocks]:
            made = np.repeat(0.5 * self.sound(start, stop)[None], self.outputs, 0)
            assert self.out.write(made) == stop - start
        del self.waiting[:blocks]

    def loudness(self, index):
        """Of a whole block that was played: 1 is the sound itself, 0.5 what is made of it."""
        piece = self.played[0, index * FRAMES : (index + 1) * FRAMES]
        return float(np.sqrt(2 * np.mean(piece**2)))

    def check_no_jumps(self):
        begun = np.flatnonzero(self.played[0])[:1]  # the sound begins as it begins
        steps = np.abs(np.diff(self.played[:, int(begun.sum()) :])).max()
        assert steps < 2 * np.pi * 50 / RATE + 1.5 / FADE


def test_in_time_every_made_frame_is_played_a_block_later():
    line = Line()
    for _ in range(20):
        line.block()
    np.testing.assert_array_equal(line.played[0, :FRAMES], 0)
    np.testing.assert_array_equal(line.played[0, FRAMES:], 0.5 * line.sound(0, 19 * FRAMES))
    assert line.playout.overruns == 0


def test_late_work_gives_way_to_the_sound_and_comes_back_in_its_place():
    line = Line()
    for index in range(30):
        line.block(works=not 10 <= index < 14)
    assert line.playout.overruns == 1
    levels = [line.loudness(index) for index in range(30)]
    assert levels[1:11] == pytest.approx([0.5] * 10, abs=0.01)
    assert levels[12:15] == pytest.approx([1.0] * 3, abs=0.01)  # equally late: still a sine from block to block
    assert levels[16:] == pytest.approx([0.5] * 14, abs=0.01)
    line.check_no_jumps()
    # In their places, as if nothing had been late.
    np.testing.assert_array_equal(line.played[0, 16 * FRAMES :], 0.5 * line.sound(15 * FRAMES, 29 * FRAMES))
    np.testing.assert_array_equal(line.played[0, 12 * FRAMES : 15 * FRAMES], line.sound(11 * FRAMES, 14 * FRAMES))


def test_work_that_is_late_again_gets_a_block_more():
    line = Line()
    for index in range(60):
        line.block(works=index not in (10, 11, 20, 21))
    assert line.playout.overruns == 2
    np.testing.assert_array_equal(line.played[0, 16 * FRAMES : 20 * FRAMES], 0.5 * line.sound(15 * FRAMES, 19 * FRAMES))
    np.testing.assert_array_equal(line.played[0, 30 * FRAMES :], 0.5 * line.sound(28 * FRAMES, 58 * FRAMES))
    before = line.playout.overruns
    line.block(works=False)  # which is now in time
    line.block()
    assert line.playout.overruns == before
    line.check_no_jumps()


def test_the_delay_stays_within_what_is_remembered():
    line = Line(capacity=8 * FRAMES)
    for index in range(400):
        line.block(works=index % 4 != 3)
    made = [np.flatnonzero(np.abs(line.played[0, k * FRAMES : (k + 1) * FRAMES]) > 0.51).size for k in range(300, 400)]
    assert max(made) <= FRAMES and line.playout._arrived - line.playout._at <= 8 * FRAMES
    line.check_no_jumps()


def test_several_stems_fade_to_silence():
    line = Line(inputs=1, outputs=2)
    for index in range(20):
        line.block(works=not 8 <= index < 12)
    assert line.loudness(11) == 0 and line.loudness(18) == pytest.approx(0.5, abs=0.01)
    line.check_no_jumps()


def test_what_is_never_worked_on_is_heard_as_it_came():
    line = Line(capacity=4 * FRAMES)
    for index in range(40):
        line.block(works=not 10 <= index < 18)  # more than the queue takes: four blocks are lost
    np.testing.assert_array_equal(line.played[0, 30 * FRAMES :], 0.5 * line.sound(29 * FRAMES, 39 * FRAMES))
    np.testing.assert_array_equal(line.played[0, 13 * FRAMES : 17 * FRAMES], line.sound(12 * FRAMES, 16 * FRAMES))
    line.check_no_jumps()


@settings(max_examples=60, deadline=None)
@given(late=st.lists(st.booleans(), min_size=30, max_size=120), wide=st.booleans())
def test_whenever_work_comes_nothing_jumps(late, wide):
    line = Line(outputs=2 if wide else 1, capacity=6 * FRAMES)
    for one in late:
        line.block(works=not one)
    line.check_no_jumps()
    for _ in range(14):  # after a quiet while it is what was made again
        line.block()
    assert line.loudness(len(late) + 13) == pytest.approx(0.5, abs=0.01)
