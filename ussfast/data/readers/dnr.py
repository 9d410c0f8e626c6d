"""Divide and Remaster, version 2: minutes of film-like sound with speech, music and effects on tracks of their own."""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

SPLITS = {"tr": "train", "cv": "dev", "tt": "test"}
# (file, prompt, from, licence, class): the licences are those of the three sets it was made from, not one of its own.
TRACKS = (
    ("speech", "speech", "LibriSpeech", "CC BY 4.0 (LibriSpeech)", "attribution"),
    ("music", "musicbg", "FMA", "Creative Commons, of each track of FMA; many forbid commercial use", "unknown"),
    ("sfx", "sfxbg", "FSD50K", "Creative Commons, of each clip of FSD50K; some forbid commercial use", "unknown"),
)


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    for part, split in SPLITS.items():
        for example in sorted((folder / part).glob("*/")):
            for name, prompt, origin, license, license_class in TRACKS:
                path = example / f"{name}.wav"
                if path.is_file():
                    source = f"Divide and Remaster v2 (D. Petermann et al.), {name} from {origin}"
                    group = f"dnr {part} {example.name}"
                    yield Clip(path, prompt, split, source, license, license_class, group=group)


READER = Reader(
    "dnr", "Divide and Remaster v2", "tr/, cv/ and tt/ with NUMBER/{speech,music,sfx,mix}.wav", find
)
