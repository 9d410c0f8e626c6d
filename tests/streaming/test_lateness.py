"""When work on a stream pauses, and when it goes on."""

import pytest

from ussfast.streaming.live.lateness import LONGEST_REST_S, SHORTEST_REST_S, Lateness

CHUNK_S = 0.1


def run(late, seconds, cost):
    """So much audio in chunks, each costs `cost` per second while work goes on; how many chunks had none."""
    rested = 0
    for _ in range(round(seconds / CHUNK_S)):
        working = late.keeps_up
        late.spent(cost * CHUNK_S if working else 0.0, CHUNK_S)
        rested += not working
    return rested


def test_work_in_time_never_pauses():
    late = Lateness(0.5)
    assert run(late, 100, 0.99) == 0 and late.overruns == 0 and late.late_s == 0


def test_what_is_saved_early_is_not_owed_later():
    late = Lateness(0.5)
    run(late, 100, 0.1)
    late.spent(0.5, 0.1)
    assert late.keeps_up and late.late_s == pytest.approx(0.4)


def test_one_long_step_is_borne_up_to_the_limit():
    late = Lateness(0.5)
    late.spent(0.6, 0.1)
    assert late.keeps_up
    late.spent(0.2, 0.1)
    assert not late.keeps_up and late.overruns == 1


def test_it_goes_on_once_the_delay_is_made_up_for():
    late = Lateness(0.5)
    late.spent(3.1, 0.1)
    assert run(late, 2.9, 0) == 29 and not late.keeps_up and late.late_s == pytest.approx(0.1)
    late.spent(0, 0.2)
    assert late.keeps_up and late.late_s == 0
    assert run(late, 10, 0.9) == 0


def test_work_that_is_always_too_slow_rests_longer_and_longer():
    late = Lateness(0.3)
    rests, at = [], 0.0
    while len(rests) < 9:
        while late.keeps_up:
            late.spent(1.5 * CHUNK_S, CHUNK_S)
        at = 0.0
        while not late.keeps_up:
            late.spent(0, CHUNK_S)
            at += CHUNK_S
        rests.append(at)
    assert rests[0] == pytest.approx(SHORTEST_REST_S, abs=2 * CHUNK_S)
    assert all(b >= a - 1e-9 for a, b in zip(rests, rests[1:], strict=False))
    assert rests[-1] == pytest.approx(LONGEST_REST_S, abs=2 * CHUNK_S)
    assert late.overruns == 9


def test_after_a_long_time_in_time_a_pause_is_short_again():
    late = Lateness(0.3)
    for _ in range(4):
        late.spent(1.0, 0.1)
        while not late.keeps_up:
            late.spent(0, 0.1)
    run(late, 60, 0.5)
    late.spent(0.5, 0.1)
    assert run(late, 10, 0) == pytest.approx(SHORTEST_REST_S / CHUNK_S, abs=1)


def test_another_stream_begins_in_time_and_overruns_are_counted_on():
    late = Lateness(0.3)
    late.spent(9, 0.1)
    late.begin()
    assert late.keeps_up and late.late_s == 0 and late.overruns == 1
