"""Dagstuhl ChoirSet: a choir and two quartets, every singer with microphones of their own."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from ussfast.data.readers._base import Clip, Problem, Reader

# Not "bass": in manifests that is the instrument.
PARTS = {"S": "soprano", "A": "alto", "T": "tenor", "B": "bass_voice"}
# Of one singer, the first that there is: a handheld one, a headset, one on the throat.
MICROPHONES = ("DYN", "HSM", "LRX")
NAME = re.compile(r"DCS_([A-Za-z]+)_([A-Za-z]+)_([A-Za-z0-9]+)_([SATB])([0-9]+)_([A-Z]{3})\.wav")
SOURCE = "Dagstuhl ChoirSet (S. Rosenzweig, H. Cuesta, C. Weiss, F. Scherbaum, E. Gomez, M. Mueller)"


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    takes: dict[tuple[str, str, str], dict[str, dict[str, Path]]] = defaultdict(lambda: defaultdict(dict))
    for path in sorted(folder.glob("audio_wav_22050_mono/DCS_*.wav")):
        if found := NAME.fullmatch(path.name):
            piece, ensemble, take, part, number, microphone = found.groups()
            takes[piece, ensemble, take][part + number][microphone] = path
    for (piece, ensemble, take), singers in takes.items():
        chosen = {
            singer: next(paths[name] for name in MICROPHONES if name in paths)
            for singer, paths in singers.items() if paths.keys() & set(MICROPHONES)
        }  # fmt: skip
        # Solos, and takes of one part alone, are no piece to separate.
        whole = {singer[0] for singer in chosen} == PARTS.keys()
        for singer, path in chosen.items():
            name = PARTS[singer[0]]
            yield Clip(
                path=path,
                prompt=name if whole else _nothing,
                split=split_of(piece, ensemble),
                source=f"{SOURCE}: {piece} {ensemble} {take}",
                license="CC BY 4.0",
                license_class="attribution",
                label=name,
                speaker=f"dcs {singer}",
                song=f"dcs {piece} {ensemble} {take}",
                aligned=tuple(other for other in chosen.values() if other != path),
            )


def split_of(piece: str, ensemble: str) -> str:
    """There are no splits of the publisher's: Tebe Poem (TP) is for the test, what quartet B sings of the rest for
    validation."""
    return "test" if piece == "TP" else "dev" if ensemble == "QuartetB" else "train"


def _nothing(seconds: float) -> None:
    return None


READER = Reader(
    "choirset", "Dagstuhl ChoirSet", "audio_wav_22050_mono/ with DCS_LI_QuartetA_Take01_S1_DYN.wav, ...", find
)
