"""Few stems of another kind than a manifest's songs: duets of a woman and a man who sing vowels, a folder of them.

    python scripts/vowel_duets.py data/manifest.json duets

takes the vocals whose `source` says "sampled vowels femalevoices" or "malevoices". Every woman of the training split
sings with every man of it. Of the dev split, nobody's audio is in two pieces: recordings are cut in halves, which meet
a half of each of two others; the first part of a piece is for validation, the rest for the test. Beside the folders
train, dev and test there is songs.json, a manifest of the training songs that have nothing of these voices, and
melodies.json, with nothing but their stems vocals and other.
"""

import re
import sys
from itertools import product
from pathlib import Path

import numpy as np
import soundfile

from ussfast import audio
from ussfast.data.manifest import STEMS, Row, moved, read_rows, write_rows

VOICES = re.compile(r"sampled vowels (female|male)voices")
LEVEL_DB = -26.0  # of both singers, where they sing
FOR_VALIDATION = 3 / 8  # of a piece of the dev split


def singers(rows: list[Row], folder: Path, split: str) -> dict[str, list[tuple[str, np.ndarray, int]]]:
    """(song, audio from the first note on, rate in Hz) by female and male."""
    found: dict[str, list[tuple[str, np.ndarray, int]]] = {"female": [], "male": []}
    for row in rows:
        voice = VOICES.search(str(row.get("source")))
        if voice and row["split"] == split and row["prompt"] == "vocals":
            data, rate = audio.read(folder / row["path"])
            mono = data.mean(0)
            loud = np.flatnonzero(np.abs(mono) > 1e-3)
            mono = mono[loud[0] : loud[-1] + 1]
            active = mono[np.abs(mono) > 1e-3]
            found[voice[1]].append((row["song"], mono * 10 ** (LEVEL_DB / 20) / active.std(), rate))
    return found


def write(folder: Path, female: np.ndarray, male: np.ndarray, rate: int) -> float:
    """A piece; returns its seconds."""
    folder.mkdir(parents=True)
    length = min(len(female), len(male))
    for name, own in (("female", female), ("male", male)):
        soundfile.write(folder / f"{name}.wav", own[:length], rate)
    return length / rate


def main() -> None:
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    manifest, output = Path(sys.argv[1]), Path(sys.argv[2])
    rows = read_rows(manifest)
    seconds = {"train": 0.0, "dev": 0.0, "test": 0.0}
    there = singers(rows, manifest.parent, "train")
    for (hers, female, rate), (his, male, _) in product(there["female"], there["male"]):
        seconds["train"] += write(output / "train" / f"{hers}-{his}", female, male, rate)
    there = singers(rows, manifest.parent, "dev")
    pairs = list(zip(there["female"], there["male"], strict=True))
    for number, (hers, female, rate) in enumerate(there["female"]):
        for half in (0, 1):
            # The second half sings with the next man: his second half is free, too.
            his, male, _ = pairs[(number + half) % len(pairs)][1]
            parts = [own[half * len(own) // 2 : (half + 1) * len(own) // 2] for own in (female, male)]
            at = round(FOR_VALIDATION * min(map(len, parts)))
            name = f"{hers}-{his}-{half}"
            seconds["dev"] += write(output / "dev" / f"{name}-first", parts[0][:at], parts[1][:at], rate)
            seconds["test"] += write(output / "test" / f"{name}-rest", parts[0][at:], parts[1][at:], rate)
    used = {row["song"] for row in rows if VOICES.search(str(row.get("source")))}
    songs = [row for row in rows if row["prompt"] in STEMS and row.get("song") and row["song"] not in used]
    songs = [row for row in songs if row["split"] == "train"]
    songs = [moved(row, manifest.parent, output) for row in songs]
    write_rows(output / "songs.json", songs)
    write_rows(output / "melodies.json", [row for row in songs if row["prompt"] in ("vocals", "other")])
    print(*(f"{split}: {value / 60:.1f} minutes" for split, value in seconds.items()), sep="\n")
    print(f"songs.json: {len(songs)} stems")


if __name__ == "__main__":
    main()
