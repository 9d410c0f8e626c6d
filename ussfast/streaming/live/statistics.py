"""Figures of a running stream: speed, step times, dropouts. Their memory does not grow with the stream."""

import json
import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np

FASTEST_S, GROWTH, BINS = 1e-6, 1.02, 1050  # bins up to about 1000 s


class Histogram:
    """Durations in bins 2 % wide, from 1 us to about 1000 s; what lies beyond counts in the outermost bin."""

    def __init__(self) -> None:
        self._counts = np.zeros(BINS, np.int64)

    def add(self, seconds: float, weight: int = 1) -> None:
        place = math.log(max(seconds, FASTEST_S) / FASTEST_S, GROWTH)
        self._counts[min(int(place), BINS - 1)] += weight

    def merge(self, other: "Histogram") -> None:
        self._counts += other._counts

    def percentile(self, percent: float) -> float | None:
        """Seconds that `percent` of the durations do not exceed, to within 1 %; None if there are no durations."""
        total = int(self._counts.sum())
        if not total:
            return None
        rank = max(1, math.ceil(percent / 100 * total))
        place = int(np.searchsorted(self._counts.cumsum(), rank))
        return FASTEST_S * GROWTH ** (place + 0.5)


class _Span:
    """Work on a stretch of the stream: seconds of audio, seconds of work, times of steps."""

    def __init__(self) -> None:
        self.audio_s = self.work_s = 0.0
        self.steps = Histogram()

    def add(self, other: "_Span") -> None:
        self.audio_s += other.audio_s
        self.work_s += other.work_s
        self.steps.merge(other.steps)


class Statistics:
    """Times the work on a stream and writes a line about it at most once a second.

    Args:
        latency: of the session, in seconds.
        hop_seconds: of audio that one step processes.
        write: called with each line; None for no lines.
        as_json: lines are JSON objects.
        dropouts, clipped: give the number so far.
        clock: in seconds.
    """

    def __init__(
        self,
        latency: float,
        hop_seconds: float,
        write: Callable[[str], None] | None,
        as_json: bool = False,
        *,
        dropouts: Callable[[], int] = lambda: 0,
        clipped: Callable[[], int] = lambda: 0,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._latency, self._hop_s, self._write, self._as_json = latency, hop_seconds, write, as_json
        self._dropouts, self._clipped, self._clock = dropouts, clipped, clock
        self._total, self._recent = _Span(), _Span()
        self._hop_audio_s = self._hop_work_s = 0.0  # pushes that are not a whole hop yet
        self._reported = clock()

    def timed(self, work: Callable[[], Any], audio_s: float) -> Any:
        """Does the work for so many seconds of new audio, and returns its result."""
        begin = self._clock()
        result = work()
        end = self._clock()
        self._recent.audio_s += audio_s
        self._recent.work_s += end - begin
        self._hop_audio_s += audio_s
        self._hop_work_s += end - begin
        hops = self._hop_audio_s / self._hop_s
        if hops > 0.999:
            self._recent.steps.add(self._hop_work_s / hops, round(hops))
            self._hop_audio_s = self._hop_work_s = 0.0
        if end - self._reported >= 1:
            self._reported = end
            self._report(self._recent)
            self._total.add(self._recent)
            self._recent = _Span()
        return result

    def finish(self) -> None:
        """The last line, about the whole stream."""
        self._total.add(self._recent)
        self._recent = _Span()
        self._report(self._total, summary=True)

    def _report(self, span: _Span, summary: bool = False) -> None:
        if self._write is None:
            return
        seconds = self._total.audio_s + (0 if summary else span.audio_s)
        facts = {
            "seconds": round(seconds, 3),
            "rtf": round(span.work_s / span.audio_s, 4) if span.audio_s else None,
            "step_p50_ms": _ms(span.steps.percentile(50)),
            "step_p99_ms": _ms(span.steps.percentile(99)),
            "dropouts": self._dropouts(),
            "clipped": self._clipped(),
            "latency_ms": _ms(self._latency),
            "summary": summary,
        }
        self._write(json.dumps(facts) if self._as_json else _text(facts))


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(1000 * seconds, 3)


def _text(facts: dict[str, Any]) -> str:
    shown = {name: "-" if value is None else str(value) for name, value in facts.items()}
    line = (
        "{seconds} s, RTF {rtf}, step p50 {step_p50_ms} ms, p99 {step_p99_ms} ms, dropouts {dropouts}, "
        "clipped {clipped}, latency {latency_ms} ms"
    ).format(**shown)
    return f"in all {line}" if facts["summary"] else line
