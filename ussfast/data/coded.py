"""Training audio that has been through a lossy codec, as much of what users bring has."""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import soundfile

from ussfast.audio import read
from ussfast.audio.atomic import atomic_write
from ussfast.data.manifest import Row, moved, placed, read_rows, write_rows
from ussfast.errors import InputError, OutputError
from ussfast.separation import make_folders

CODECS = {"mp3": ("MP3", "MPEG_LAYER_III"), "ogg": ("OGG", "VORBIS")}
LOSS = (0.5, 0.95)  # of 0 (the best) to 1: about 96 to 32 kbit/s for one channel at 32 kHz
BLOCK_FRAMES = 1 << 14  # libsndfile keeps a block on the stack


def code(
    source: Path, output: Path, share: float = 0.3, seed: int = 0, each: Callable[[Iterator[Row]], Iterator[Row]] = iter
) -> tuple[int, int]:
    """Encodes a share of a manifest's training items into the folder `output`, with a manifest that has those in their
    place and all else where it is. Stems of songs stay as they are: codecs shift them by some milliseconds.

    Args:
        each: wraps the rows, to show how far it is.
    Returns:
        (items encoded, items in the manifest).
    Raises:
        InputError: no manifest, a share outside 0..1, a file that cannot be read.
        OutputError: `output` is there and not empty, or cannot be written.
    """
    if not 0 <= share <= 1:
        raise InputError(f"share must be between 0 and 1, got {share}")
    rows = read_rows(source)
    output = Path(os.path.abspath(output))
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise OutputError(f"{output} is there already: give a folder to make")
    make_folders([output / "coded" / "000000.mp3"])
    done: list[Row] = []
    for number, row in enumerate(each(iter(rows))):
        # What becomes of a file depends on its name alone, not on what else is in the manifest.
        rng = np.random.default_rng((seed, zlib.crc32(str(row["path"]).encode())))
        chosen = row["split"] == "train" and not row.get("song") and rng.random() < share
        done.append(_coded(row, source.parent, output, number, rng) if chosen else moved(row, source.parent, output))
    write_rows(output / "manifest.json", done)
    return sum("codec" in row for row in done), len(done)


def _coded(row: Row, folder: Path, output: Path, number: int, rng: np.random.Generator) -> Row:
    audio, rate = read(folder / row["path"])
    name, loss = str(rng.choice(list(CODECS))), float(rng.uniform(*LOSS))
    container, kind = CODECS[name]
    target = output / "coded" / f"{number:06d}.{name}"
    peak = max(1.0, float(np.abs(audio).max(initial=0.0)))
    with (
        atomic_write(target) as temporary,
        soundfile.SoundFile(
            temporary, "w", rate, len(audio), format=container, subtype=kind, compression_level=loss
        ) as file,
    ):
        for start in range(0, audio.shape[1], BLOCK_FRAMES):
            file.write(audio[:, start : start + BLOCK_FRAMES].T / peak)
    return moved(row, folder, output) | {"path": placed(target, output), "codec": f"{name}, loss {loss:.2f}"}
