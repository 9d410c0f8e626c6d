"""Pace and statistics, with a clock of their own."""

import json

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ussfast.streaming.live.pace import at_pace
from ussfast.streaming.live.statistics import Histogram, Statistics


class Clock:
    """Time passes by sleeping and working only."""

    def __init__(self, now=1024.0, oversleep=0.0):
        self.now, self._oversleep, self.slept = now, oversleep, 0.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.slept += seconds
        self.now += seconds + self._oversleep


def silence(*sizes):
    return [np.zeros((1, size), np.float32) for size in sizes]


def test_blocks_come_when_their_last_sample_would_have_been_recorded():
    clock = Clock()
    times = [clock.now for _ in at_pace(silence(100, 50, 1, 400), 1000, clock, clock.sleep)]
    np.testing.assert_allclose(times, [1024.1, 1024.15, 1024.151, 1024.551])


def test_no_drift_over_twenty_minutes_of_late_sleeps():
    clock = Clock(oversleep=0.0007)
    for _ in at_pace(silence(*[320] * 60_000), 16_000, clock, clock.sleep):
        pass
    assert 0 <= clock.now - 1024 - 1200 < 0.001


def test_a_late_block_is_caught_up_with_nothing_lost():
    clock, times = Clock(), []
    for number, _ in enumerate(at_pace(silence(*[100] * 8), 1000, clock, clock.sleep)):
        times.append(round(clock.now - 1024, 6))
        clock.now += 0.35 if number == 1 else 0.01
    assert times == [0.1, 0.2, 0.55, 0.56, 0.57, 0.6, 0.7, 0.8]


@given(
    st.lists(st.floats(2e-6, 500), min_size=1, max_size=200),
    st.sampled_from([50, 99, 100]),
)
def test_percentiles_are_within_a_percent(durations, percent):
    histogram = Histogram()
    for duration in durations:
        histogram.add(duration)
    exact = np.percentile(durations, percent, method="inverted_cdf")
    np.testing.assert_allclose(histogram.percentile(percent), exact, rtol=0.011)


def test_a_histogram_takes_anything_and_weighs():
    histogram = Histogram()
    assert histogram.percentile(50) is None
    histogram.add(0.0)
    histogram.add(1e9)
    histogram.add(0.01, weight=98)
    np.testing.assert_allclose(histogram.percentile(50), 0.01, rtol=0.011)
    assert histogram.percentile(1) < 2e-6 and histogram.percentile(100) > 900


def watched(clock, **more):
    lines = []
    statistics = Statistics(0.04, 0.02, lines.append, clock=clock, **more)

    def push(audio_s, work_s):
        def work():
            clock.now += work_s
            return "piece"

        assert statistics.timed(work, audio_s) == "piece"

    return lines, statistics, push


def test_lines_tell_of_their_second_and_the_last_of_everything():
    clock, dropouts = Clock(), iter((1, 2))
    lines, statistics, push = watched(clock, as_json=True, dropouts=lambda: next(dropouts), clipped=lambda: 7)
    for _ in range(31):
        push(0.02, 1 / 64)
        clock.now += 1 / 64
    assert not lines
    push(0.02, 1 / 32)  # and one second has passed
    assert len(lines) == 1
    for _ in range(10):
        push(0.02, 1 / 128)
    statistics.finish()
    assert len(lines) == 2
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert list(first) == [
        "seconds", "rtf", "step_p50_ms", "step_p99_ms", "dropouts", "clipped", "latency_ms", "summary"
    ]  # fmt: skip
    assert (first["seconds"], first["dropouts"], first["clipped"], first["latency_ms"]) == (0.64, 1, 7, 40.0)
    assert first["rtf"] == round(33 / 64 / 0.64, 4) and not first["summary"]
    np.testing.assert_allclose([first["step_p50_ms"], first["step_p99_ms"]], [1000 / 64, 1000 / 32], rtol=0.011)
    assert (last["seconds"], last["dropouts"], last["summary"]) == (0.84, 2, True)
    assert last["rtf"] == round((33 / 64 + 10 / 128) / 0.84, 4)
    np.testing.assert_allclose([last["step_p50_ms"], last["step_p99_ms"]], [1000 / 64, 1000 / 32], rtol=0.011)


def test_steps_are_per_hop_whatever_the_pushes():
    clock = Clock()
    lines, statistics, push = watched(clock, as_json=True)
    for _ in range(8):  # a quarter of a hop each; the last of four does the work
        for work_s in (0, 0, 0, 0.008):
            push(0.005, work_s)
    push(0.02 * 8, 8 * 0.008)
    statistics.finish()
    facts = json.loads(lines[-1])
    np.testing.assert_allclose([facts["step_p50_ms"], facts["step_p99_ms"]], [8, 8], rtol=0.011)


def test_nothing_to_tell_of():
    lines, statistics, push = watched(Clock())
    statistics.finish()
    push(0.0, 0.5)  # only the rest of a session
    statistics.finish()
    assert lines[0] == "in all 0.0 s, RTF -, step p50 - ms, p99 - ms, dropouts 0, clipped 0, latency 40.0 ms"
    silent = Statistics(0.04, 0.02, None)
    assert silent.timed(lambda: 3, 0.02) == 3
    silent.finish()
