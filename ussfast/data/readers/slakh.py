"""Slakh2100: songs rendered from MIDI, one file per instrument; several of them may be one prompt's."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ussfast.data.readers._base import Clip, Problem, Reader
from ussfast.errors import InputError

SPLITS = {"train": "train", "validation": "dev", "test": "test"}
SOURCE = "Slakh2100 (E. Manilow, G. Wichern, P. Seetharaman, J. Le Roux)"


def find(folder: Path, work: Path) -> Iterator[Clip | Problem]:
    # The folder `omitted` of the redux edition repeats songs of the others.
    songs = [(split, song) for part, split in SPLITS.items() for song in sorted(folder.glob(f"{part}/Track*/"))]
    songs += [(_split_of(song.name), song) for song in sorted(folder.glob("Track*/"))]
    for split, song in songs:
        facts = song / "metadata.yaml"
        if not facts.is_file():
            continue
        stems = _stems(facts)
        if isinstance(stems, Problem):
            yield stems
            continue
        paths = {name: song / "stems" / f"{name}.flac" for name in stems}
        for name, stem in stems.items():
            prompt = prompt_of(str(stem.get("inst_class", "")), bool(stem.get("is_drum")))
            # Stems that the renderer could not play are listed without a file.
            if prompt is None or not stem.get("audio_rendered", True):
                continue
            yield Clip(
                path=paths[name],
                prompt=prompt,
                split=split,
                source=SOURCE,
                license="CC BY 4.0",
                license_class="attribution",
                label=str(stem.get("midi_program_name") or stem.get("inst_class")),
                song=f"slakh {song.name}",
                real=False,
                aligned=tuple(path for other, path in paths.items() if other != name),
            )


def prompt_of(instrument: str, drum: bool) -> str | None:
    """The prompt of an instrument class; None for what is no music."""
    kind = instrument.lower()
    if drum or kind == "drums":
        return "drums"
    return "bass" if kind == "bass" else None if kind in ("", "sound effects") else "other"


def _split_of(track: str) -> str:
    """The split of the edition without split folders, whose first 1500 tracks are for training, the next 375 for
    validation and the last 225 for the test."""
    digits = "".join(c for c in track if c.isdigit())
    number = int(digits) if digits else 1
    return "train" if number <= 1500 else "dev" if number <= 1875 else "test"


def _stems(path: Path) -> dict[str, dict[str, Any]] | Problem:
    try:
        import yaml
    except ImportError:
        raise InputError("metadata.yaml of Slakh needs PyYAML: pip install 'ussfast[train]'") from None
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        stems = yaml.load(path.read_bytes(), loader)["stems"]
        return {str(name): dict(stem) for name, stem in stems.items()}
    except (yaml.YAMLError, OSError, KeyError, TypeError, AttributeError, ValueError) as error:
        return Problem(path, f"no table of stems: {str(error).splitlines()[0] if str(error) else error!r}")


READER = Reader(
    "slakh",
    "Slakh2100",
    "train/, validation/ and test/ (or none of them) with Track?????/{metadata.yaml,stems/S??.flac}",
    find,
)
