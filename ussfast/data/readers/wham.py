"""The noise of WHAM!: recordings in restaurants, cafes and bars."""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

SPLITS = {"tr": "train", "cv": "dev", "tt": "test"}


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    root = folder / "wham_noise" if (folder / "wham_noise").is_dir() else folder
    for part, split in SPLITS.items():
        for path in sorted((root / part).glob("*.wav")):
            yield Clip(
                path=path,
                prompt="sfxbg",
                split=split,
                source="WHAM! noise (G. Wichern et al., Whisper Inc. and MERL)",
                license="CC BY-NC 4.0",
                license_class="noncommercial",
                label="wham",
            )


READER = Reader("wham", "the noise of WHAM!", "tr/, cv/ and tt/ with *.wav, or wham_noise/ with these", find)
