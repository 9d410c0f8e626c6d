"""Development mixtures made from a manifest's held-out split: five tasks, always the same for one seed."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ussfast.data.manifest import STEMS
from ussfast.data.pool import AudioPool, Item
from ussfast.errors import InputError

TASKS = ("speech_enhancement", "speech_speech", "sfx_sfx", "music", "cinematic")
HALVES = ("dev", "test")
# The first number that puts half of the songs and half of the full-band voices of the data behind this project's
# figures on either side. No model was measured to choose it.
SALT = "11 "


def half_of(item: Item) -> str:
    """Which of HALVES an item of a manifest's dev split is in: a hash of its song's, or else its file's name."""
    name = item.song or Path(item.path).stem
    return HALVES[hashlib.sha256((SALT + name).encode()).digest()[0] % 2]


@dataclass(frozen=True)
class DevMixture:
    """mixture float32 [samples], references [sources, samples], the prompt of each source.

    items: the pool's index of the item that each source is cut from; -1 for a sum of several.
    """

    task: str
    mixture: np.ndarray
    references: np.ndarray
    prompts: tuple[str, ...]
    items: tuple[int, ...]


def dev_mixtures(pool: AudioPool, count: int = 40, seconds: float = 5.0, seed: int = 0) -> Iterator[DevMixture]:
    """`count` mixtures per task, in the order of TASKS; the first k of a task do not depend on `count`.

    speech_enhancement: speech + sfxbg (-10..+5 dB); speech_speech: two speakers (0..-3 dB); sfx_sfx: two labels
    (0..-3 dB); music: the four stems of one song as they are; cinematic: speech + sfxbg (-8..0 dB) + drums, bass and
    other of one song as musicbg (-8..0 dB). Levels are relative to the first source's active level.
    """
    for number, task in enumerate(TASKS):
        draw = Draw(pool, round(seconds * pool.rate))
        for item in range(count):
            draw.rng = np.random.default_rng((seed, number, item))
            prompts, items, sources = draw.sources(task)
            scale = min(1.0, 0.95 / max(1e-9, float(np.abs(sources.sum(0)).max())))
            sources = (sources * scale).astype(np.float32)
            yield DevMixture(task, sources.sum(0), sources, prompts, items)


class Draw:
    """Crops of `count` samples of a pool's items; `rng` is to be set for each mixture.

    items: by prompt, the pool's indices that `pick` chooses from; songs: stem -> index of the songs with all stems.
    Raises InputError where the pool lacks what the tasks need.
    """

    def __init__(self, pool: AudioPool, count: int):
        self.pool, self.count = pool, count
        self.rng = np.random.default_rng(0)
        self.items = {p: [i for i, x in enumerate(pool.items) if x.prompt == p] for p in ("speech", "sfx", "sfxbg")}
        songs: dict[str, dict[str, int]] = {}
        for i, item in enumerate(pool.items):
            if item.song and item.prompt in STEMS:
                songs.setdefault(item.song, {})[item.prompt] = i
        self.songs = {name: stems for name, stems in songs.items() if len(stems) == len(STEMS)}
        groups = {prompt: {pool.items[i].group for i in items} for prompt, items in self.items.items()}
        if min(len(groups["speech"]), len(groups["sfx"])) < 2 or not groups["sfxbg"] or not self.songs:
            raise InputError(
                "the dev split needs speech of two speakers, sfx of two labels, sfxbg, and a song with all four stems"
            )

    def sources(self, task: str) -> tuple[tuple[str, ...], tuple[int, ...], np.ndarray]:
        """Prompts, pool indices and audio [sources, samples]."""
        rng = self.rng
        if task == "music":
            items, parts = self.song(STEMS)
            return STEMS, items, np.stack(parts)
        if task == "cinematic":
            music = np.sum(self.song(("drums", "bass", "other"))[1], 0)
            speech, speech_item = self.pick("speech")
            effects, effects_item = self.pick("sfxbg")
            effects = effects * amplitude(rng.uniform(-8, 0))
            music = _leveled(music) * amplitude(rng.uniform(-8, 0))
            return ("speech", "sfxbg", "musicbg"), (speech_item, effects_item, -1), np.stack([speech, effects, music])
        if task == "speech_enhancement":
            speech, speech_item = self.pick("speech")
            effects, effects_item = self.pick("sfxbg")
            parts = [speech, effects * amplitude(rng.uniform(-10, 5))]
            return ("speech", "sfxbg"), (speech_item, effects_item), np.stack(parts)
        name = "speech" if task == "speech_speech" else "sfx"
        first, first_item = self.pick(name)
        second, second_item = self.pick(name, self.pool.items[first_item].group)
        parts = [first, second * amplitude(rng.uniform(-3, 0))]
        return (name, name), (first_item, second_item), np.stack(parts)

    def pick(self, prompt: str, other_than: str | None = None) -> tuple[np.ndarray, int]:
        """A leveled crop and the index of its item, which is of another group (speaker or label) than the one given."""
        choices = [i for i in self.items[prompt] if self.pool.items[i].group != other_than]
        for _ in range(20):
            index = int(self.rng.choice(choices))
            crop = self.cut(index, self.rng.random())
            if np.mean(crop**2) > 1e-6:
                break
        return _leveled(crop), index

    def song(self, stems: tuple[str, ...]) -> tuple[tuple[int, ...], list[np.ndarray]]:
        """Indices and audio of these stems of one song, cut at one place."""
        song = self.songs[str(self.rng.choice(sorted(self.songs)))]
        place = self.rng.random()
        return tuple(song[stem] for stem in stems), [self.cut(song[stem], place) for stem in stems]

    def cut(self, index: int, place: float) -> np.ndarray:
        offset = round(place * (int(self.pool.length[index]) - self.count))
        return self.pool.crops(np.array([index]), np.array([offset]), self.count)[0].cpu().numpy().astype(np.float64)


def amplitude(level_db: float) -> float:
    """The factor that changes a level by so many dB."""
    return float(10 ** (level_db / 20))


def _leveled(x: np.ndarray, level_db: float = -25.0) -> np.ndarray:
    """Scaled to an active level: RMS over the 50 ms blocks that are within 40 dB of the loudest one."""
    size = 1600
    blocks = np.square(x[: len(x) // size * size]).reshape(-1, size).mean(1)
    active = blocks[blocks > blocks.max() * 1e-4]
    return x * (amplitude(level_db) / np.sqrt(active.mean())) if len(active) else x
