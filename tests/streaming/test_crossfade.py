"""Dry and wet sound side by side: equally late whatever happens, and never a jump from one to the other."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ussfast.streaming.live.crossfade import Crossfade

moves = st.lists(st.tuples(st.integers(0, 40), st.booleans()), min_size=1, max_size=60)


class Late:
    """A session that gives `make` of its input, some of it late, at most by `delay` samples."""

    def __init__(self, delay, lateness, make):
        self.delay, self.make, self.lateness = delay, make, iter(lateness)
        self.held = np.zeros((2, 0), np.float32)

    def push(self, audio):
        self.held = np.concatenate((self.held, audio), 1)
        count = max(0, self.held.shape[1] - min(self.delay, next(self.lateness, self.delay)))
        out, self.held = self.held[:, :count], self.held[:, count:]
        return self.make(out)


def through(moves, delay, fade, settle, lateness, make):
    """What comes out, what went in, and whether it ran at each sample."""
    line, session = Crossfade(2, delay, fade, settle), Late(delay, lateness, make)
    total = sum(count for count, _ in moves)
    audio = np.random.default_rng(1).uniform(0.5, 1, (2, total)).astype(np.float32)
    out, at = [], 0
    for count, wanted in moves:
        chunk = audio[:, at : at + count]
        at += count
        if wanted and not line.running:
            line.resume()
        if line.running:
            line.made(count, session.push(chunk))
        out.append(line.step(chunk, wanted))
        if line.running and line.is_dry and not wanted:
            line.pause()
    return np.concatenate(out, 1), audio


@given(
    moves=moves,
    delay=st.integers(0, 50),
    fade=st.integers(1, 30),
    lateness=st.lists(st.integers(0, 50), max_size=60),
)
@settings(max_examples=100, deadline=None)
def test_what_is_wet_lines_up_with_what_is_dry(moves, delay, fade, lateness):
    """A session that changes nothing: then nobody can tell which of the two is heard."""
    out, audio = through(moves, delay, fade, 5, lateness, lambda samples: samples)
    whole = np.concatenate((np.zeros((2, delay), np.float32), audio), 1)[:, : audio.shape[1]]
    np.testing.assert_allclose(out, whole, atol=1e-6)


@given(moves=moves, fade=st.integers(1, 30))
@settings(max_examples=100, deadline=None)
def test_one_takes_the_place_of_the_other_in_a_straight_line(moves, fade):
    """A session that silences everything, so that the share of what is dry is heard as it is."""
    out, audio = through(moves, 0, fade, 0, [], lambda samples: 0 * samples)
    share = np.concatenate(([0.0], (out / audio)[0]))
    assert np.abs(np.diff(share)).max(initial=0) <= 1 / fade + 1e-5
    assert share.min() >= 0 and share.max() <= 1 + 1e-6


def test_it_becomes_dry_and_wet_again_once_it_has_settled():
    moves = [(10, True), (10, False), (10, False), (10, True), (10, True), (10, True), (10, True)]
    out, audio = through(moves, 6, 4, 7, [], lambda samples: 0 * samples)
    share = (out[0, 6:] / audio[0, :-6]).round(3)
    assert share[:4].max() == 0  # input samples 0 to 3 come out wet
    assert share[4:8].tolist() == [0.25, 0.5, 0.75, 1]
    assert set(share[8:37]) == {1.0}  # resumed at input sample 30, six late, seven to settle
    assert share[37:41].tolist() == [0.75, 0.5, 0.25, 0] and share[41:].max() == 0
