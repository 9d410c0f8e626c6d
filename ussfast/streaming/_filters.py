"""The filters of soxr as polyphase tables, measured once per pair of rates by its answers to single impulses.

A pair of rates is reduced to `up` output samples per `down` input samples. Output sample k lies at input sample
k * down / up and is a weighted sum of the input around it, whose weights depend only on the distance: on a response.
Responses are measured on a grid of `phases` points per output sample.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import soxr
import torch
from torch import Tensor

from ussfast.audio.resampling import QUALITY

# Smaller shares of the largest weight are left out: soxr's own rounding lies at 1e-7.
_NOTHING = 2e-7
# An impulse reaches fewer samples than this, of the input or the output, whichever are rarer.
_REACH = 230
# Samples that soxr gets at once while its response is measured.
_BLOCK = 1 << 22
# soxr keeps exact time with up to so many phases, or with twice as many if they are even. Otherwise its clock is wrong
# by up to 2e-10, which blurs what is measured over minutes.
_EXACT_PHASES = 2048
# Time and memory of a measurement grow with down^2 / up. This bound lets whole factors through: 1000 takes 5 s.
_LONGEST = 1_000_000
# Phases per sample of the lower rate in a table that is interpolated linearly (to 1.5e-7 of a tone of full scale), and
# in the responses that it is made of, which are interpolated by cubic polynomials (to 1e-9).
_TABLE_PHASES = 2048
_RESPONSE_PHASES = 512
# Impulses by which a filter made of neighbours is fitted: soon over, before soxr's clock is wrong by much.
_PROBES = 24
# Kernels take whole vectors only.
_VECTOR = 16


@dataclass(frozen=True)
class Filter:
    """The weights of a conversion.

    table: [phases + 1, taps] float32, taps a multiple of 16. Row p is for an output sample p / phases of an input
        sample behind input sample n; its tap j is the weight of input sample n + first + j. Between rows weights are
        interpolated linearly.
    """

    table: Tensor
    first: int

    @property
    def last(self) -> int:
        """The newest input sample, counted from n, that an output sample needs."""
        return self.first + self.table.shape[1] - 1


@lru_cache(maxsize=16)
def filter_of(up: int, down: int) -> Filter:
    """soxr's filter for `up` output samples per `down` input samples, two numbers without a common factor."""
    exact = up <= _EXACT_PHASES or (up % 2 == 0 and up <= 2 * _EXACT_PHASES)
    if not exact or down * down > _LONGEST * up:
        return _fitted(up, down)
    response = _response(up, down, down)
    middle = len(response) // 2
    padded = np.pad(response, 1)
    return _filter(up, middle / up, lambda at: padded[np.clip(at + middle + 1, 0, len(padded) - 1)])


def _filter(phases: int, reach: float, weigh: Callable[[np.ndarray], np.ndarray]) -> Filter:
    """Lays out a response that reaches so many input samples; weigh: distances in steps of 1 / phases -> weights."""
    last = math.ceil(reach)
    taps = math.ceil((last + math.floor(reach) + 1) / _VECTOR) * _VECTOR
    first = last + 1 - taps
    distances = np.arange(phases + 1)[:, None] - np.arange(first, last + 1) * phases
    return Filter(torch.from_numpy(weigh(distances).astype(np.float32)), first)


def _response(up: int, down: int, phases: int) -> np.ndarray:
    """What soxr makes of an impulse: [2 * n + 1], symmetric; phases divides down.

    Impulses whose distance goes through all phases of the grid give every point of it once.
    """
    every = down // phases
    least = math.ceil(_REACH * max(1, down / up) / every)
    gap = every * next(n for n in itertools.count(least) if math.gcd(n, phases) == 1)
    beside = gap * up // (2 * down)  # outputs on either side
    response = np.zeros(2 * beside * phases + 1)
    at_once = max(1, _BLOCK // gap)
    for start in range(0, phases, at_once):
        places = np.arange(start, min(start + at_once, phases)) * gap
        places = places + gap - places[0] // down * down  # any whole period may be left out
        signal = np.zeros(places[-1] + gap, np.float32)
        signal[places] = 1
        answer = soxr.resample(signal, down, up, QUALITY)
        outputs = (places * up // down)[:, None] + np.arange(-beside, beside + 1)
        points = (outputs * down - places[:, None] * up) // every + beside * phases
        inside = (points >= 0) & (points < len(response)) & (outputs >= 0) & (outputs < len(answer))
        response[points[inside]] = answer[outputs[inside]]
    response = (response + response[::-1]) / 2
    kept = np.flatnonzero(np.abs(response) > _NOTHING * response.max())
    return response[kept[0] : len(response) - kept[0]]


def _fitted(up: int, down: int) -> Filter:
    """The filter for a ratio whose response takes too long or is blurred: made of those of six ratios next to it.

    Their lower rates are odd numbers below 2048 and their other terms powers of two: none has a common factor, all keep
    exact time. soxr's filter changes slowly with the ratio, and jumps at some, so that the shares of the six come from
    its answer to the first impulses at the true ratio.
    """
    base = 2 ** math.ceil(math.log2(1000 * down / up))
    low = math.floor((base * up / down - 1) / 2) * 2 + 1
    neighbours = [low + step for step in range(-4, 8, 2)]
    grid = min(_RESPONSE_PHASES, base)
    responses = [_response(near, base, grid) for near in neighbours]
    # Points of the grid per input sample, and what a weight is worth: the lower rate is what filters follow.
    scales = [grid * min(1, up / down) * max(1, near / base) for near in neighbours]
    worth = [min(1, up / down) / min(1, near / base) for near in neighbours]

    def weigh(distances: np.ndarray) -> np.ndarray:
        made = zip(responses, scales, worth, strict=True)
        return np.stack([value * _cubic(response, distances * scale) for response, scale, value in made], -1)

    distances, answer = _first_answers(up, down)
    shares = np.linalg.lstsq(weigh(distances), answer, rcond=1e-5)[0]
    phases = max(4, math.ceil(_TABLE_PHASES * min(1, up / down)))
    reach = max(len(response) // 2 / scale for response, scale in zip(responses, scales, strict=True))
    return _filter(phases, reach, lambda steps: weigh(steps / phases) @ shares)


def _first_answers(up: int, down: int) -> tuple[np.ndarray, np.ndarray]:
    """Distances in input samples, and soxr's weights at these, from its first impulses."""
    gap = 2 * math.ceil(_REACH * max(1, down / up)) + 1
    signal = np.zeros(gap * (_PROBES + 1), np.float32)
    signal[gap::gap] = 1
    answer = soxr.resample(signal, down, up, QUALITY).astype(np.float64)
    first, last = gap * up // (2 * down) + 1, min(len(answer), (gap * _PROBES + gap // 2) * up // down)
    outputs = np.arange(first, last)
    places = (outputs * down + up * (gap // 2)) // (up * gap) * gap
    return (outputs * down - places * up) / up, answer[first:last]


def _cubic(response: np.ndarray, at: np.ndarray) -> np.ndarray:
    """The response between its points, `at` steps from its middle; zero outside."""
    place = at + len(response) // 2
    whole = np.clip(np.floor(place), -3, len(response) + 1)
    part = place - whole
    index, padded = whole.astype(int) + 4, np.pad(response, (4, 5))
    inside = (place > -2) & (place < len(response) + 1)
    a, b, c, d = (padded[index + offset] for offset in (-1, 0, 1, 2))
    less, more = part - 1, part + 1
    outer = part * less * (more * d - (part - 2) * a) / 6
    return np.where(inside, outer + (part - 2) * more * (less * b - part * c) / 2, 0.0)
