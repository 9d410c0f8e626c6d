"""Bach10: ten chorales, each played by violin, clarinet, saxophone and bassoon, recorded one by one."""

from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

# The publisher's files say saxphone; copies of them say saxophone.
INSTRUMENTS = {
    "violin": ("violin",),
    "clarinet": ("clarinet",),
    "saxophone": ("saxphone", "saxophone"),
    "bassoon": ("bassoon",),
}
SOURCE = "Bach10 (Z. Duan, B. Pardo)"
LICENSE = "Bach10: published for research; no licence is stated"


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    for piece in sorted(folder.glob("[01][0-9]-*/")):
        paths = {name: _file(piece, spellings) for name, spellings in INSTRUMENTS.items()}
        if not any(path.is_file() for path in paths.values()):
            continue
        for name, path in paths.items():
            yield Clip(
                path=path,
                prompt=name,
                split=split_of(piece.name),
                source=f"{SOURCE}: {piece.name}",
                license=LICENSE,
                license_class="unknown",
                song=f"bach10 {piece.name}",
                aligned=tuple(other for other in paths.values() if other != path),
            )


def split_of(piece: str) -> str:
    """There are no splits of the publisher's: the first six pieces are for training, two for validation, two for the
    test."""
    number = int(piece[:2])
    return "train" if number <= 6 else "dev" if number <= 8 else "test"


def _file(piece: Path, spellings: tuple[str, ...]) -> Path:
    """Where a recording of the piece is, or would be."""
    paths = [piece / f"{piece.name}-{spelling}.wav" for spelling in spellings]
    return next((path for path in paths if path.is_file()), paths[0])


READER = Reader("bach10", "Bach10", "01-AchGottundHerr/01-AchGottundHerr-violin.wav, ...", find)
