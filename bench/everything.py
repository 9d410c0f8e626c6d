"""How `Separator.find` shows a sound: recordings with one sound over another, of which the detector knows all.

    python bench/everything.py manifest.json --count 40 -o bench/results/everything.json

20 s of one sound of the manifest's dev split, and another one in 8 s of them, as loud. Both are separated by prompts
made of all that a detector would point to ("as they are"), by those of `Separator.find`, and by those of the sounds
themselves in the same places ("apart"), which nobody has who asks. Prints mean SI-SDR improvements over the mixture,
in dB; a sound that was taken for part of the other counts as the mixture, 0 dB.
"""

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast.audio import read, resample
from ussfast.data.pool import Item, read_manifest
from ussfast.detect.detector import Detector
from ussfast.detect.events import Event
from ussfast.evaluate.metrics import si_sdr
from ussfast.separator import Separator

PAIRS = (("sfxbg", "speech"), ("musicbg", "sfx"), ("speech", "sfx"), ("sfxbg", "sfx"), ("musicbg", "speech"))
SECONDS, OVER, LEVEL = 20, ((4, 8), (13, 17)), 0.1


class Told(Detector):
    """Hears what it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def detect(self, *_: object, **__: object) -> list[Event]:
        return self.events


def main(
    manifest: Path,
    count: int = 40,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="For the figures, as JSON.")] = None,
    model: str = "default",
) -> None:
    separator, detector = Separator(model), Told()
    rate = separator.sample_rate
    items = [item for item in read_manifest(manifest) if item.split == "dev"]
    below = [Event("below", 0, SECONDS, 0.9)]
    over = [Event("over", start, end, 0.8) for start, end in OVER]
    scores: dict[str, list[float]] = {}
    for number in range(count):
        rng, kinds = np.random.default_rng(number), PAIRS[number % len(PAIRS)]
        one, other = (drawn([item for item in items if item.prompt == kind], rng, rate) for kind in kinds)
        gate = np.zeros_like(other)
        for start, end in OVER:
            gate[start * rate : end * rate] = 1
        other = other * gate
        mixture = one + other
        detector.events = [*below, *over]
        found = separator.separate_everything(mixture, rate, detector=detector)
        for name, target, spans in (("below", one, [(0, SECONDS)]), ("over", other, OVER)):
            before = si_sdr(mixture, target)
            stems = {"find": found[name] if name in found else mixture[None]}
            for how, source in (("as they are", mixture), ("apart", target)):
                clips = [source[start * rate : end * rate] for start, end in spans]
                separator.enroll("a sound", clips, rate)
                stems[how] = separator.separate(mixture, rate, prompts="a sound").stems[0]
            for how, stem in stems.items():
                scores.setdefault(f"{name}, {how}", []).append(float(si_sdr(stem[0], target) - before))
        scores.setdefault("found both", []).append(float(len(found.labels) == 2))
    means = {name: round(float(np.mean(values)), 2) for name, values in scores.items()}
    print(json.dumps(means, indent=1))
    if output is not None:
        output.write_text(
            json.dumps({"model": model, "count": count, "means": means, "scores": scores}, indent=1) + "\n"
        )


def drawn(items: list[Item], rng: np.random.Generator, rate: int) -> np.ndarray:
    """[samples] of one speaker or label, so long, LEVEL loud."""
    group = items[rng.integers(len(items))].group
    clips = [item for item in items if item.group == group]
    parts: list[np.ndarray] = []
    while sum(map(len, parts)) < SECONDS * rate:
        audio, own = read(clips[rng.integers(len(clips))].path)
        parts.append(resample(audio[0], own, rate))
    whole = np.concatenate(parts)[: SECONDS * rate]
    return (LEVEL * whole / max(1e-4, float(np.sqrt(np.mean(whole**2))))).astype(np.float32)


if __name__ == "__main__":
    typer.run(main)
