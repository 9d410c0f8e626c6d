"""Schedules of streams, alone and in pools: chunks of any size, changes of prompts, states that move, resets, silence
and rubbish, in any order."""

import random
from pathlib import Path

import numpy as np
from tiny import CAUSAL, RATE, TUSS, UNCONDITIONAL, noise, tiny_model

from ussfast import InputError, Separation, Separator
from ussfast.streaming.session import Session

SECONDS, MIB = 10.0, 256
PROMPTS = ("speech", "sfx", "drums", "sfx-1", "bell-1", "", "no such prompt")
TOLERANCE = 1e-4  # of full scale or of the loudest sample, whichever is more


def prepare(folder: Path) -> list[Separator]:
    causal = Separator.from_model(tiny_model(CAUSAL), ("speech", "drums"), dtype="float32")
    linked = Separator.from_model(tiny_model(CAUSAL), ("sfx", "sfx"), dtype="float32", channels="linked")
    for separator in (causal, linked):
        for name in ("sfx-1", "bell-1"):
            separator.enroll(name, [noise(1, 3000, len(name))], RATE)
    return [
        causal,
        linked,
        Separator.from_model(tiny_model(CAUSAL), ("sfx", "sfx"), dtype="float32", sum_to_mixture=True),
        Separator.from_model(tiny_model(TUSS), ("speech", "sfx", "sfx"), segment=0.2, overlap=0.1, look_ahead=0.02),
        Separator.from_model(tiny_model(UNCONDITIONAL), segment=0.4, overlap=0.15),
    ]


class Stream:
    """One that is played, what it got and gave, and whether it must be what the whole recording gives."""

    def __init__(self, separator: Separator, session, prompts, channels: int, rng: random.Random):
        self.separator, self.session, self.prompts, self.channels, self.rng = separator, session, prompts, channels, rng
        self.numbers = np.random.default_rng(rng.getrandbits(32))
        self.begin()

    def begin(self) -> None:
        self.taken, self.pieces = [np.zeros((self.channels, 0), np.float32)], list[Separation]()
        self.plain = True

    def chunk(self) -> np.ndarray:
        count = self.rng.choice((0, 1, 7, 160, 441, 1000, 4800))
        scale = self.rng.choice((0, 1e-6, 0.1, 0.1, 1e4))
        chunk = (self.numbers.standard_normal((self.channels, count)) * scale).astype("f4")
        if self.rng.random() < 0.1 and count:
            chunk[:, self.rng.randrange(count)] = self.rng.choice((np.nan, np.inf, 1e38))
        bad = not (np.abs(chunk) < 1e10).all()
        self.taken.append(np.zeros_like(chunk) if bad else chunk)
        return chunk

    def took(self, piece) -> None:
        assert piece.stems.shape == (len(piece.labels), *piece.mixture.shape)
        assert len(set(piece.labels)) == len(piece.labels), f"labels {piece.labels}"
        assert np.isfinite(piece.stems).all(), "stems are not finite"
        own = self.separator.labels(self.prompts)
        assert piece.labels[: len(own)] == own
        self.pieces.append(piece)

    def change(self) -> None:
        names = [self.rng.choice(PROMPTS[: self.rng.choice((3, 5, 7))]) for _ in range(self.rng.randint(1, 3))]
        self.session.set_prompts(names)
        self.prompts, self.plain = names, False

    def move(self, other) -> None:
        """Goes on in another session."""
        other.state = self.session.state
        self.session = other

    def ended(self, rest) -> None:
        self.took(rest)
        audio, mixture = (np.concatenate(parts, 1) for parts in (self.taken, [p.mixture for p in self.pieces]))
        same = np.array_equal(audio, mixture) or audio.size == mixture.size == 0
        assert same, f"{audio.shape[1]} samples in, {mixture.shape[1]} out, or others"
        # Rates are converted to 1e-6: where a sound begins, a model without training may make much of that.
        if not self.plain or not audio.size or self.session.sample_rate != RATE:
            return
        stems = np.concatenate([piece.stems for piece in self.pieces], -1)
        whole = self.separator.separate(audio, self.session.sample_rate, prompts=self.prompts)
        far = np.abs(stems - whole.stems).max()
        assert far <= TOLERANCE * max(1, np.abs(audio).max()), f"{far} of {np.abs(audio).max()} off"


def one(separators: list[Separator], rng: random.Random, folder: Path) -> None:
    separator = rng.choice(separators)
    causal = separator.engine.causal is not None
    rate, channels = rng.choice((RATE, RATE, 16000, 44100, 48000)), rng.choice((1, 1, 2, 3))
    if causal and rng.random() < 0.4:
        _pool(separator, rng, rate, channels)
    else:
        _alone(separator, rng, rate, channels)


def _alone(separator: Separator, rng: random.Random, rate: int, channels: int) -> None:
    most = rng.choice((None, 2, 6))

    def opened(prompts):
        return separator.session(rate, prompts=prompts, channels=rng.choice((None, channels)), max_prompts=most)

    stream = Stream(separator, opened(None), None, channels, rng)
    for _ in range(rng.randrange(12)):
        match rng.randrange(12):
            case 0:
                stream.change()
            case 1:
                stream.session.reset()
                stream.begin()
            case 2:
                stream.session.state = stream.session.state
            case 3:
                stream.move(opened(stream.prompts))
            case _:
                stream.took(stream.session.push(stream.chunk()))
    stream.ended(stream.session.flush())


def _pool(separator: Separator, rng: random.Random, rate: int, channels: int) -> None:
    pool = separator.pool(2, rate, channels=channels)
    streams, left = dict[int, Stream](), list[Session]()
    for _ in range(rng.randrange(16)):
        chosen = rng.choice(list(streams)) if streams else -1
        match rng.randrange(10):
            case 0 | 1 if len(pool) < 2:
                number = pool.join()
                assert number not in streams
                streams[number] = Stream(separator, pool[number], None, channels, rng)
            case 2 if streams:
                stream = streams.pop(chosen)
                stream.ended(pool.leave(chosen))
                left.append(stream.session)
            case 3 if streams:
                streams[chosen].change()
            case 4 if streams:
                pool.reset(chosen)
                streams[chosen].begin()
            case 5 if left:
                _refused(rng.choice(left), rng)
            case 6 if streams:
                stream = streams[chosen]
                alone = separator.session(rate, prompts=stream.prompts, channels=channels)
                alone.state = stream.session.state
                stream.session.state = alone.state
            case _:
                some = [number for number in streams if rng.random() < 0.8]
                for number, piece in pool.push({number: streams[number].chunk() for number in some}).items():
                    streams[number].took(piece)
    for number, stream in streams.items():
        stream.ended(pool.leave(number))


def _refused(session, rng: random.Random) -> None:
    """A session that left acts on nothing."""
    act = rng.choice(
        (session.flush, session.reset, lambda: session.set_prompts("speech"), lambda: session.push(noise(1, 9)),
         lambda: session.state)
    )  # fmt: skip
    try:
        act()
    except InputError as error:
        assert "has left its pool" in str(error)
    else:
        raise AssertionError("a session that left can still be used")
