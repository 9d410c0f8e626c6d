"""Two minutes of effects and ambience to tune against, for users who have no backgrounds of their own."""

from importlib.resources import as_file, files

import numpy as np
import soundfile

from ussfast.audio import resample
from ussfast.tuning.sounds import Sound

RATE = 32_000
# What they were taken from by scripts/tuning_backgrounds.py: prompt, number of pieces, seconds of each.
FILES = {"effects": ("sfx", 24, 3.0), "ambience": ("sfxbg", 12, 4.0)}


def backgrounds(rate: int) -> list[Sound]:
    """All pieces as sounds at `rate`."""
    found = []
    for name, (_, number, seconds) in FILES.items():
        with as_file(files("ussfast.tuning") / "backgrounds" / f"{name}.ogg") as path:
            audio, _ = soundfile.read(path, dtype="float32")
        count = round(seconds * RATE)
        for piece in range(number):
            cut = audio[piece * count : (piece + 1) * count]
            own = resample(cut[None], RATE, rate)[0] if rate != RATE else cut
            found.append(Sound(np.ascontiguousarray(own), f"{name} {piece + 1}"))
    return found
