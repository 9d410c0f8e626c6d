"""What was detected, as sounds to be separated: labels that are told apart, and the pieces of the recording that show
each of them. Nothing here needs torch."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ussfast.audio.arrays import mono
from ussfast.detect.events import Event

Span = tuple[float, float]  # from, to, in seconds

THRESHOLD = 0.5  # of a score, from 0 to 1
TOP, MOST_SOUNDS = 8, 64  # sounds that are asked for, and that can be
SAME = 0.8  # of the time of two labels: where they share that much of it, they are one sound
ALONE = 1.0  # seconds without others: so much of a sound shows it
SHORTEST = 0.5  # seconds of a piece; what is shorter is made longer, around its middle
LONGEST = 4.0  # seconds of a piece
MOST = 30.0  # seconds of a sound in all its pieces: memory does not depend on how long the recording is


@dataclass(frozen=True)
class Sound:
    """label: its name; also: labels that are in the same places, with lower scores; score: the highest of its events.
    pieces: where the recording shows it best, in order, MOST seconds in all at most.
    over: labels of sounds that are in these pieces too, all of them before this one in the order of `sounds`."""

    label: str
    also: tuple[str, ...]
    score: float
    pieces: tuple[Span, ...]
    over: tuple[str, ...]


def sounds(events: Sequence[Event], most: int) -> list[Sound]:
    """The sounds in a recording, in the order in which they can be told from one another.

    Labels whose events share nearly all of their time would be asked for by the same audio, and be the same stem: they
    are one sound, called by the label with the highest score. Sounds that are alone for a while come first; then those
    that are without sounds that have not come yet; last what never is, by score.

    Args:
        events: of one recording, those of a label apart from one another.
        most: sounds at most, those with the highest scores.
    """
    spans: dict[str, list[Span]] = {}
    scores: dict[str, float] = {}
    for event in sorted(events, key=lambda event: event.onset):
        spans.setdefault(event.label, []).append((event.onset, event.offset))
        scores[event.label] = max(scores.get(event.label, 0.0), event.score)
    also: dict[str, list[str]] = {}
    for label in sorted(spans, key=lambda label: -scores[label]):
        same = next((one for one in also if _shared(spans[one], spans[label]) >= SAME), None)
        if same is not None:
            also[same].append(label)
        elif len(also) < most:
            also[label] = []
    left = list(also)
    found: list[Sound] = []

    def without(label: str, others: Iterable[str]) -> list[Span]:
        rest = spans[label]
        for other in others:
            rest = rest if other == label else _without(rest, spans[other])
        rest = [(start, end) for start, end in rest if end - start >= SHORTEST]
        return rest if _length(rest) >= ALONE else []

    def take(label: str, shown: Sequence[Span]) -> None:
        pieces = _pieces(shown)
        over = tuple(one.label for one in found if _shared(pieces, spans[one.label]) > 0)
        found.append(Sound(label, tuple(also[label]), scores[label], tuple(pieces), over))
        left.remove(label)

    for label in also:
        if shown := without(label, also):
            take(label, shown)
    while left:
        clear = {label: without(label, left) for label in left}
        label = max(left, key=lambda label: bool(clear[label]))  # the first of those, which have the highest score
        take(label, clear[label] or spans[label])
    return found


def cut_out(blocks: Iterable[np.ndarray], rate: int, pieces: Sequence[Span]) -> list[np.ndarray]:
    """The pieces of a recording, each [samples] of one channel; read no further than to the end of the last one.

    Args:
        blocks: [channels, samples] in order, of any length. rate: theirs, in Hz.
    """
    places = [(round(start * rate), round(end * rate)) for start, end in pieces]
    parts: list[list[np.ndarray]] = [[] for _ in pieces]
    found: list[np.ndarray] = [np.zeros(0, np.float32) for _ in pieces]
    at, end = 0, max((end for _, end in places), default=0)
    for block in blocks:
        after = at + block.shape[1]
        for i, (first, last) in enumerate(places):
            if first < after and last > at:
                parts[i].append(block[:, max(0, first - at) : last - at].copy())
            if parts[i] and last <= after:
                found[i], parts[i] = mono(np.concatenate(parts[i], 1)), []
        at = after
        if at >= end:
            break
    for i, part in enumerate(parts):  # the recording ended within it, by rounding
        if part:
            found[i] = mono(np.concatenate(part, 1))
    return found


def _length(spans: Iterable[Span]) -> float:
    return sum(end - start for start, end in spans)


def _without(spans: Sequence[Span], others: Sequence[Span]) -> list[Span]:
    """The parts of spans that are in no other; both in order."""
    found: list[Span] = []
    at = 0
    for start, end in spans:
        while at < len(others) and others[at][1] <= start:
            at += 1
        other = at
        while other < len(others) and others[other][0] < end:
            first, last = others[other]
            if first > start:
                found.append((start, first))
            start, other = max(start, last), other + 1
        if start < end:
            found.append((start, end))
    return found


def _shared(one: Sequence[Span], other: Sequence[Span]) -> float:
    """The time that both have by the time that either has."""
    only = _length(_without(one, other))
    both = _length(one) - only
    return both / max(only + _length(other), 1e-9)


def _pieces(spans: Sequence[Span]) -> list[Span]:
    """Pieces of a length that shows a sound, from all over the spans."""
    found: list[Span] = []
    for start, end in spans:
        if end - start < SHORTEST:
            start = max(0.0, (start + end - SHORTEST) / 2)
            end = start + SHORTEST
        count = max(1, round((end - start) / LONGEST))
        edges = np.linspace(start, end, count + 1).tolist()
        found += [(first, min(last, first + LONGEST)) for first, last in pairwise(edges)]
    while _length(found) > MOST:
        # Fewer, still from all over: what a recording begins with need not be typical of it.
        keep = max(1, min(len(found) - 1, int(len(found) * MOST / _length(found))))
        found = [found[i * len(found) // keep] for i in range(keep)]
    return found
