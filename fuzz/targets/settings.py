"""Settings of separators, sessions and pools, and arrays of every kind: valid ones with a few things changed."""

import copy
import fractions
import pickle
import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from tiny import CAUSAL, PROMPTS, SHORT, STEREO, TUSS, UNCONDITIONAL, tiny_model

from fuzz.mutate import ODD, ODD_FLOATS
from ussfast import Separator

SECONDS, MIB = 10.0, 384
THINGS: tuple[Any, ...] = (
    None, True, False, "", "1", "cpu", [], [1], (), {}, b"x", 1 + 2j, np.ones(3), fractions.Fraction(1, 3), 10**5000
)  # fmt: skip
SETTINGS: dict[str, tuple[Any, ...]] = {
    "dtype": ("auto", "float32", "bf16", "int8"), "backend": ("auto", "native", "reference"),
    "segment": (None, 0.1, 0.3, 1, 6.0, np.float32(0.5)), "overlap": (None, 0, 0.05, 0.2, np.float64(0.1)),
    "stitch": ("fade", "fade", "published"), "look_ahead": (None, None, 0, 0.01), "batch": (None, 1, 2, np.int32(3)),
    "max_attenuation": (None, 0, 12.0, np.int16(30)), "sum_to_mixture": (False, True), "device": ("cpu", "auto"),
    "channels": ("independent", "linked"),
}  # fmt: skip
SESSION: dict[str, tuple[Any, ...]] = {
    "sample_rate": (8000, 8000, 16000, 11025, 44100, 8000.0), "channels": (None, None, None, 1, 2),
    "max_prompts": (None, 1, 5), "on_bad": ("silence", "raise"), "threads": (1, 2), "latency": (None, None, 0.1, 0.3),
}  # fmt: skip
DTYPES = ("f4", "f4", "f8", "f2", "i2", "i4", "u1", "i8", "u4", ">f4", ">i2", "?", "c8", "O")


def prepare(folder: Path) -> list[Any]:
    return [tiny_model(config) for config in (CAUSAL, CAUSAL, TUSS, STEREO, UNCONDITIONAL)]


def one(models: list[Any], rng: random.Random, folder: Path) -> None:
    warnings.simplefilter("ignore")
    model = rng.choice(models)
    known = model.prompt_names
    prompts = _prompts(rng) if known and rng.random() < 0.98 else ()
    chosen = _chosen(SETTINGS, rng, 0.85)
    separator = Separator.from_model(model, prompts, **(SHORT | {"device": "cpu"} | chosen))
    if rng.random() < 0.1:
        separator = pickle.loads(pickle.dumps(separator)) if rng.random() < 0.5 else copy.deepcopy(separator)
    audio = _audio(rng)
    match rng.randrange(4):
        case 0:
            session = separator.session(**({"sample_rate": 8000} | _chosen(SESSION, rng, 0.9)))
            _pushed(session.push(audio), audio, len(session.labels))
            rest = session.flush()
            assert np.isfinite(rest.stems).all(), "stems are not finite"
        case 1 if model is models[0]:
            asked = {k: v for k, v in _chosen(SESSION, rng, 0.9).items() if k != "latency" and v is not None}
            pool = separator.pool(**({"size": rng.choice((1, 2, 3)), "sample_rate": 8000} | asked))
            streams = [pool.join() for _ in range(rng.randint(1, 2))]
            for stream, piece in pool.push(dict.fromkeys(streams, audio)).items():
                _pushed(piece, audio, len(pool[stream].labels))
        case _:
            rate: Any = rng.choice((8000, 8000, 8000, 12000, 44100, 8000.0)) if rng.random() < 0.9 else _odd(rng)
            others: Any = _prompts(rng) if rng.random() < (0.3 if known else 0.05) else None
            out = separator.separate(audio, rate, prompts=others)
            _pushed(out, audio, len(separator.labels(others)))
            assert out.mixture.shape[1] == np.shape(audio)[-1], "another length"


def _pushed(out: Any, audio: Any, sources: int) -> None:
    channels = 1 if np.ndim(audio) == 1 else len(audio)
    assert out.stems.shape == (sources, *out.mixture.shape) and out.mixture.shape[0] == channels, "another shape"
    assert out.stems.dtype == out.mixture.dtype == np.float32
    assert np.isfinite(out.stems).all(), "stems are not finite"


def _odd(rng: random.Random) -> Any:
    return rng.choice((rng.choice(ODD), rng.choice(ODD_FLOATS), rng.choice(THINGS)))


def _chosen(table: dict[str, tuple[Any, ...]], rng: random.Random, valid: float) -> dict[str, Any]:
    """A few of the settings; with what is left of 1, one of them cannot be."""
    found = {name: rng.choice(table[name]) for name in rng.sample(sorted(table), rng.randrange(5))}
    if rng.random() > valid:
        found[rng.choice(sorted(table))] = _odd(rng)
    return found


def _prompts(rng: random.Random) -> Any:
    names = [rng.choice(PROMPTS) for _ in range(rng.choice((1, 1, 2, 2, 3)))]
    if rng.random() < 0.05:
        names[rng.randrange(len(names))] = rng.choice(("", "no such prompt", "speech-1", "SPEECH", "sfx\n", "d" * 300))
    return rng.choice((names, tuple(names), names[0]))


def _audio(rng: random.Random) -> Any:
    numbers = np.random.default_rng(rng.getrandbits(32))
    channels, count = rng.choice((1, 1, 2, 2, 2, 3)), rng.choice((1, 1, 2, 63, 64, 65, 800, 800, 800, 1500, 3000))
    audio = numbers.standard_normal((channels, count)) * rng.choice((0, 1e-30, 1e-4, 0.1, 0.1, 0.1, 1, 100))
    kind = rng.choice(DTYPES[:4]) if rng.random() < 0.9 else rng.choice(DTYPES)
    with np.errstate(all="ignore"):
        audio = (audio * 1000 if np.dtype(kind).kind in "iu" else audio).astype(kind)
    match rng.randrange(24):
        case 0:
            audio = audio[:, ::-1]
        case 1:
            audio = np.asfortranarray(audio)
        case 2:
            audio = np.repeat(audio, 2, 1)[:, ::2]
        case 3:
            audio = audio[0]
        case 4:
            audio = np.broadcast_to(audio[:1], audio.shape)
        case 5:
            audio.flags.writeable = False
        case 6 if count and audio.dtype.kind == "f":
            with np.errstate(all="ignore"):
                audio[0, rng.randrange(count)] = rng.choice(ODD_FLOATS)
        case 7 if rng.random() < 0.5:
            return rng.choice((audio[None], audio.T, audio[:0], [[0.1, 0.2]], None, "x", 5))
    return audio
