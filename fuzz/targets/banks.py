"""Prompts made of example clips, and banks that hold them: whatever is enrolled separates, to finite sounds."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from tiny import ASP, CAUSAL, RATE, noise, tiny_detector, tiny_model

from fuzz.mutate import ODD_FLOATS, changed
from ussfast import Detector, Separator
from ussfast.errors import UssfastError
from ussfast.models import SpectralModel
from ussfast.prompts.bank import Prompt
from ussfast.prompts.origin import Average

SECONDS, MIB = 10.0, 256
AVERAGES: tuple[Average | None, ...] = ("mean", "robust", None)
NAMES: tuple[Any, ...] = ("dog", "speech", "", "a b", "a\nb", "../a", "x" * 300, "\u00e9", "speech-1", 7, None, ("a",))


Context = tuple[list[tuple[SpectralModel, Detector | None]], bytes]


def prepare(folder: Path) -> Context:
    soundfile.write(folder / "clip.wav", noise(1, 2000)[0], RATE)
    models = [(tiny_model(CAUSAL), None), (tiny_model(ASP), Detector.from_model(tiny_detector()))]
    return models, (folder / "clip.wav").read_bytes()


def one(context: Context, rng: random.Random, folder: Path) -> None:
    models, clip = context
    model, detector = rng.choice(models)
    separator = Separator.from_model(model, dtype="float32", detector=detector)
    known, accepted = list(separator.prompts), 0
    for number in range(rng.randint(1, 3)):
        name = rng.choice(NAMES)
        try:
            if rng.random() < 0.2:
                prompt = Prompt(name, _vector(rng), "enrolled")
                separator.prompts.add(prompt)
            else:
                rate = rng.choice((RATE, RATE, 44100, 1000, 0, -1, None, 10**9))
                average = rng.choice(AVERAGES)
                prompt = separator.enroll(name, _clips(clip, folder, number, rng), rate, average=average)
        except UssfastError as error:
            assert str(error).isprintable() and list(separator.prompts) == known, "half enrolled"
            continue
        accepted += 1
        known = list(separator.prompts)
        assert separator.prompts[name] is prompt and prompt.vector.isfinite().all()
    if not known:
        return
    asked = [rng.choice(known[-3:]) for _ in range(rng.randint(1, 3))]
    if detector is not None:  # whose model tells no equal prompts apart
        asked = asked[:1]
    got = separator.separate(noise(1, 800), RATE, prompts=asked)
    assert got.stems.shape == (len(asked), 1, 800) and np.isfinite(got.stems).all()
    assert {len(prompt.vector) for prompt in separator.prompts.values()} == {separator.prompts.prompt_size}
    assert all(prompt.vector.isfinite().all() for prompt in separator.prompts.values())


def _vector(rng: random.Random) -> torch.Tensor:
    vector = torch.randn(rng.choice((8, 8, 8, 7, 0)), generator=torch.Generator().manual_seed(rng.randrange(100)))
    return vector * rng.choice((0, 1, 1, 1e-30, 1e30, float("nan"), float("inf")))


def _clips(clip: bytes, folder: Path, number: int, rng: random.Random) -> Any:
    clips: list[Any] = []
    for index in range(rng.randrange(4)):
        if rng.random() < 0.3:
            path = folder / f"{number}-{index}.wav"
            path.write_bytes(changed(clip, rng, 2) if rng.random() < 0.7 else clip)
            clips.append(rng.choice((path, str(path))))
            continue
        audio = noise(rng.choice((1, 1, 2)), rng.choice((0, 1, 100, 799, 800, 3000)), rng.randrange(100))
        audio = audio * np.float32(rng.choice((0, 1e-7, 1e-3, 1, 1, 100, 1e18, 1e30, 1e37)))
        if rng.random() < 0.2 and audio.size:
            audio[0, rng.randrange(audio.shape[1])] = rng.choice(ODD_FLOATS)
        clips.append(rng.choice((audio, audio[0], audio.T, audio.astype("f8"), audio[None], torch.from_numpy(audio))))
    return clips if rng.random() < 0.95 else rng.choice((None, 5, "clip", clips[0] if clips else b"x", {}))
