"""Scenes with known events, made of the single sounds of a manifest's dev split: always the same for one seed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ussfast import audio
from ussfast.audio.resampling import resample
from ussfast.data.pool import Item
from ussfast.detect.events import Event, Events, Rules
from ussfast.errors import AudioError
from ussfast.evaluate.dev import amplitude

SECONDS = 10.0
MOST_SOUNDS = 4  # in a scene, of different labels
LONGEST = 4.0  # seconds of a sound; longer recordings are cut
LEVELS_DB = (-30.0, -20.0)  # active level of a sound; full scale is 0
BACKGROUND_DB = -42.0  # of the whole background
BLOCK = 0.01  # seconds; onsets and offsets are multiples of it within a sound
QUIET_DB = 40.0  # a block that is so much below the loudest one is silent
PAUSE = 0.5  # seconds of silence after which a sound of the same label is another event
FADE = 0.005  # seconds, where a recording is cut
BACKGROUNDS = ("sfxbg",)


@dataclass(frozen=True)
class Scene:
    """audio: float32 [samples]; events in order of onsets."""

    audio: np.ndarray
    events: list[Event]


def scenes(
    sounds: Sequence[tuple[Item, str]], backgrounds: Sequence[Item], rate: int, count: int, seed: int = 0
) -> Iterator[Scene]:
    """`count` scenes of SECONDS; the first k do not depend on `count`, nor, to 20 ms, on `rate`.

    Each is a background (a place in a random one, repeated where it is too short; silence where there are none) and one
    to MOST_SOUNDS sounds of different labels, each anywhere in the scene, so that they may overlap. Every label is as
    likely as any other, and every recording of a label. A sound begins and ends where the recording is less than
    QUIET_DB below its loudest block; longer ones are cut at a random place.

    Args:
        sounds: recordings and their labels.
        rate: of the scenes, in Hz.
    Raises:
        AudioError: a recording that cannot be read, or all sounds are silent.
    """
    labels = sorted({label for _, label in sounds})
    by_label = {label: [item for item, own in sounds if own == label] for label in labels}
    clips: dict[str, np.ndarray] = {}
    for number in range(count):
        rng = np.random.default_rng((seed, number))
        scene = _background(backgrounds, rate, clips, rng)
        events: list[Event] = []
        some = int(rng.integers(1, min(MOST_SOUNDS, len(labels)) + 1))
        for label in rng.choice(labels, some, replace=False):
            choices = by_label[str(label)]
            item = choices[int(rng.integers(len(choices)))]
            events += _place(scene, _decoded(item, rate, clips), str(label), rate, rng)
        if not events and number == 0 and all(not _decoded(i, rate, clips).any() for i, _ in sounds):
            raise AudioError("the dev split is silent: there is no sound to make scenes of")
        scene *= min(1.0, 0.95 / max(1e-9, float(np.abs(scene).max())))
        yield Scene(scene.astype(np.float32), sorted(events, key=lambda event: (event.onset, event.offset)))


def active(clip: np.ndarray, rate: int) -> list[tuple[float, float]]:
    """Where a recording [samples] is not silent, in seconds, pauses shorter than PAUSE included."""
    levels = _levels(clip, rate)
    if not levels.max(initial=0) > 0:
        return []
    loud = (levels > levels.max() * 10 ** (-QUIET_DB / 10)).astype(np.float32)
    found = Events(("it",), Rules(0.5, 0.5, 0.0, PAUSE), BLOCK)
    found.push(loud[:, None])
    return [(event.onset, event.offset) for event in found.finish(len(clip) / rate)]


def _levels(clip: np.ndarray, rate: int) -> np.ndarray:
    """Mean squares of blocks of BLOCK seconds; where they begin is rounded to samples."""
    edges = np.round(np.arange(0, len(clip) / rate, BLOCK) * rate).astype(int)
    edges = edges[edges < len(clip)]
    sizes = np.diff(np.append(edges, len(clip)))
    return np.add.reduceat(np.square(clip, dtype=np.float64), edges) / sizes if len(edges) else np.zeros(0)


def _place(scene: np.ndarray, clip: np.ndarray, label: str, rate: int, rng: np.random.Generator) -> list[Event]:
    """Adds a sound to the scene, and returns its events."""
    where, level, cut = rng.random(), amplitude(rng.uniform(*LEVELS_DB)), rng.random()
    if not (spans := active(clip, rate)):
        return []
    first, last = spans[0][0], spans[-1][1]
    if last - first > LONGEST:
        first += BLOCK * round(cut * (last - first - LONGEST) / BLOCK)
        last = first + LONGEST
    part = np.array(clip[round(first * rate) : round(last * rate)], np.float64)
    if not (spans := active(part, rate)):  # a long pause
        return []
    levels = _levels(part, rate)
    part *= level / np.sqrt(levels[levels > levels.max() * 10 ** (-QUIET_DB / 10)].mean())
    fade = max(1, min(len(part) // 2, round(FADE * rate)))
    ramp = np.linspace(0, 1, fade)
    part[:fade] *= ramp
    part[-fade:] *= ramp[::-1]
    onset = BLOCK * round(where * max(0.0, SECONDS - len(part) / rate) / BLOCK)
    at = round(onset * rate)
    part = part[: len(scene) - at]
    scene[at : at + len(part)] += part
    return [Event(label, round(onset + a, 6), round(min(onset + b, SECONDS), 6), 1.0) for a, b in spans]


def _background(items: Sequence[Item], rate: int, clips: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """float64 [samples]."""
    samples, which, where = round(SECONDS * rate), rng.random(), rng.random()
    if not items:
        return np.zeros(samples)
    if not len(clip := _decoded(items[int(which * len(items))], rate, clips)):
        return np.zeros(samples)
    clip = np.tile(clip, -(-samples // len(clip))) if len(clip) < samples else clip
    at = round(where * (len(clip) - samples))
    part = np.array(clip[at : at + samples], np.float64)
    rms = float(np.sqrt(np.mean(np.square(part))))
    return part * (amplitude(BACKGROUND_DB) / rms) if rms > 1e-6 else part


def _decoded(item: Item, rate: int, clips: dict[str, np.ndarray]) -> np.ndarray:
    """The first channel, float32 [samples] at `rate`; decoded once."""
    if item.path not in clips:
        data, native = audio.read(item.path)
        clips[item.path] = resample(data[:1], native, rate)[0]
    return clips[item.path]
