"""FUSS: single sounds of its mixtures (ssdata, ssdata_reverb) or the clips they were made from (fsd_data)."""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

SPLITS = {"train": "train", "validation": "dev", "eval": "test"}
SOURCE = "FUSS (S. Wisdom et al., Google Research), from Freesound by way of FSD50K"
LICENSE = "CC BY 4.0; the clips in it are CC0"
BACKGROUND_ABOVE_S = 10.0  # how FUSS itself tells backgrounds from foregrounds


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    for part, split in SPLITS.items():
        sources = sorted((folder / part).glob("**/*_sources/*ground*_sound.wav"))
        for path in sources:
            prompt = "sfxbg" if path.name.startswith("background") else "sfx"
            yield Clip(
                path, prompt, split, SOURCE, LICENSE, "attribution", group=path.parent.name.removesuffix("_sources")
            )
        if not sources:
            for path in sorted((folder / part).glob("sound/*.wav")):
                yield Clip(path, _by_length, split, SOURCE, LICENSE, "attribution")


def _by_length(seconds: float) -> str:
    return "sfxbg" if seconds > BACKGROUND_ABOVE_S else "sfx"


READER = Reader(
    "fuss",
    "FUSS",
    "train/, validation/ and eval/ with example*_sources/{foreground,background}*_sound.wav (ssdata) "
    "or sound/*.wav (fsd_data)",
    find,
)
