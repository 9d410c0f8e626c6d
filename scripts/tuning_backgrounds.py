"""Makes the sounds that prompts are tuned against where users have none of their own.

    python scripts/tuning_backgrounds.py MANIFEST ussfast/tuning/backgrounds

Two files of equal pieces, one sound each, of the manifest's training split, and their credits.
"""

import sys
from collections import defaultdict
from pathlib import Path

import numpy as np
import soundfile

from ussfast.audio import resample
from ussfast.audio.ogg import encode
from ussfast.data.pool import Item, read_manifest
from ussfast.tuning.bundled import FILES, RATE

FREE = ("CC0", "CC BY", "CC-BY", "Public domain")  # may be passed on, with credits
LOSS, RMS, LOUDEST = 0.6, 0.1, 0.9


def piece(item: Item, count: int) -> np.ndarray | None:
    """The loudest `count` samples, short sounds repeated; None where there is next to nothing."""
    audio, rate = soundfile.read(item.path, dtype="float32", always_2d=True)
    mono = resample(audio.mean(1)[None], rate, RATE)[0] if rate != RATE else audio.mean(1)
    if len(mono) < RATE // 3 or np.square(mono).mean() < 1e-7:
        return None
    mono = np.tile(mono, -(-count // len(mono)))
    energy = np.append(0, np.cumsum(np.square(mono, dtype=np.float64)))
    start = int((energy[count:] - energy[:-count]).argmax())
    cut = mono[start : start + count] / np.sqrt(np.square(mono[start : start + count]).mean()) * RMS
    return cut * min(1.0, LOUDEST / np.abs(cut).max())


def chosen(items: list[Item], number: int, count: int) -> list[tuple[Item, np.ndarray]]:
    """One of each label first, labels with many clips before others."""
    rng, by_label = np.random.default_rng(0), defaultdict(list)
    for index in rng.permutation(len(items)):
        by_label[items[index].label].append(items[index])
    labels = sorted(by_label, key=lambda label: -len(by_label[label]))
    found: list[tuple[Item, np.ndarray]] = []
    while len(found) < number:
        for label in labels:
            while by_label[label] and len(found) < number:
                item = by_label[label].pop()
                if (cut := piece(item, count)) is not None:
                    found.append((item, cut))
                    break
    return found


def main(manifest: Path, folder: Path) -> None:
    free = [i for i in read_manifest(manifest) if i.split == "train" and i.license.startswith(FREE)]
    lines = ["# Sounds that prompts are tuned against", "", "Mono, 32 kHz, cut, level changed, coded as Ogg Vorbis."]
    for name, (prompt, number, seconds) in FILES.items():
        found = chosen([i for i in free if i.prompt == prompt], number, round(seconds * RATE))
        (folder / f"{name}.ogg").write_bytes(encode(np.concatenate([cut for _, cut in found]), RATE, LOSS))
        lines += ["", f"## {name}.ogg: pieces of {seconds:g} s", ""]
        lines += [f"{n}. {item.label}: {item.source} ({item.license})" for n, (item, _) in enumerate(found, 1)]
    (folder / "CREDITS.md").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
