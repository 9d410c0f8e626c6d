"""Small data sets for `ussfast evaluate apt`, as they lie on the disk."""

import json

import numpy as np
import soundfile
from tiny import RATE

HERTZ = {"cat": 300, "dog": 900, "rain": 1700, "vocals": 500, "drums": 1100, "bass": 200, "other": 2300}


def record(path, name, seed, seconds=1.0):
    """A tone of its class that swells, at a little random; silence for a negative seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(abs(seed))
    time = np.arange(round(seconds * RATE)) / RATE
    swell = 0.6 + 0.4 * np.sin(2 * np.pi * rng.uniform(2, 6) * time)
    tone = 0.3 * swell * np.sin(2 * np.pi * HERTZ[name] * rng.uniform(0.95, 1.05) * time)
    soundfile.write(path, tone * (seed >= 0), RATE)


def esc50(folder, classes=("cat", "dog", "rain"), per_fold=2, seconds=1.0):
    """ESC-50's own layout, five folds."""
    lines = ["filename,fold,target,category,esc10,src_file,take"]
    for target, name in enumerate(classes):
        for fold in range(1, 6):
            for take in range(per_fold):
                file = f"{fold}-{100 * target + 10 * fold + take}-A-{target}.wav"
                record(folder / "audio" / file, name, 1000 * target + 10 * fold + take, seconds)
                lines.append(f"{file},{fold},{target},{name},False,1,A")
    (folder / "meta").mkdir()
    (folder / "meta" / "esc50.csv").write_text("\n".join(lines) + "\n")
    return folder


def musdb18(folder, seconds=1.0):
    """Two songs to train on, and one to test on."""
    for part, songs in (("train", ("A - One", "B - Two")), ("test", ("C - Three",))):
        for song in songs:
            for stem in ("vocals", "drums", "bass", "other"):
                record(folder / part / song / f"{stem}.wav", stem, len(song), seconds)
            record(folder / part / song / "mixture.wav", "cat", 0, seconds)
    return folder


def manifest(folder, rows, name="manifest.json"):
    """rows: (path, prompt, label, split)."""
    items = [
        {"path": path, "prompt": prompt, "split": split, "license_class": "permissive", "sample_rate": RATE}
        | ({} if label is None else {"label": label})
        for path, prompt, label, split in rows
    ]
    for number, (path, _, label, _) in enumerate(rows):
        record(folder / path, label if label in HERTZ else "cat", number)
    (folder / name).write_text(json.dumps({"items": items}))
    return folder / name
