"""What `ussfast finetune` gains and loses, on sounds that the default never heard:

    .venv/bin/python bench/finetune.py stems data/manifest.json DIR     # DIR/learn, and DIR/test of other recordings
    ussfast finetune default --stems DIR/learn -o MODEL
    .venv/bin/python bench/finetune.py test DIR MODEL                   # held-out recordings, before and after
    ussfast evaluate --data data/manifest.json -m MODEL                 # the dev table; with -m default what it was
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import soundfile

from ussfast import Separator
from ussfast.audio import read, resample
from ussfast.data.pool import Item, read_manifest
from ussfast.data.stems import StemPool, read_pieces
from ussfast.evaluate.metrics import improvements

RATE = 32000
LABELS = {"bells": "bell_chime", "clock": "clock_tick", "waves": "sea_waves"}
EXCERPT_SECONDS = 3.0


def stems(manifest: Path, folder: Path, seconds: float) -> None:
    """Stems of `seconds` each to learn from, and as much as there is to test on: every second recording of a label,
    those by one person together where the manifest says whose they are."""
    items = [item for item in read_manifest(manifest) if item.split == "tune"]
    for part, first in (("learn", 1), ("test", 0)):
        joined = {}
        for name, label in LABELS.items():
            own = [item for item in items if item.label == label]
            makers = sorted({_maker(item) for item in own})[first::2]
            chosen = [item for item in own if _maker(item) in makers]
            joined[name] = np.concatenate([_audio(item) for item in chosen])
        length = min(round(seconds * RATE), *map(len, joined.values()))
        for name, audio in joined.items():
            target = folder / part / f"{name}.wav"
            target.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(target, audio[:length], RATE)
            print(f"{target}: {length / RATE:.1f} s")


def _maker(item: Item) -> str:
    return item.source if "freesound" in item.source else Path(item.path).stem


def _audio(item: Item) -> np.ndarray:
    """Mono, at one level."""
    audio, rate = read(item.path)
    mono = np.asarray(resample(audio.mean(0, keepdims=True), rate, RATE)[0])
    return mono * np.float32(0.05 / max(1e-4, float(np.sqrt(np.mean(np.square(mono))))))


def test(folder: Path, model: str) -> None:
    """Mean SI-SDR improvement per stem over excerpts of the test recordings: the default asked by the stems that the
    model learned from as examples, and the model."""
    pool = StemPool.load(read_pieces(folder / "test"), RATE)
    excerpts = pool.excerpts(round(EXCERPT_SECONDS * RATE)).numpy()
    old, new = Separator("default", device="cpu"), Separator(model, device="cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in pool.names:
            old.enroll(f"{name} by example", [folder / "learn" / f"{name}.wav"])
    print(f"{len(excerpts)} excerpts of {EXCERPT_SECONDS:.0f} s, SI-SDR improvement in dB")
    for separator, asked in ((old, [f"{name} by example" for name in pool.names]), (new, list(pool.names))):
        found = []
        for references in excerpts:
            mixture = references.sum(0)
            estimates = separator.separate(mixture[None], RATE, prompts=asked).stems[:, 0]
            found.append(improvements(mixture, estimates, references, pool.names))
        means = np.mean(np.array(found, np.float64), 0)
        each = "  ".join(f"{name} {value:+.2f}" for name, value in zip(pool.names, means, strict=True))
        print(f"{separator.info.path or separator.info.name}: {each}  mean {means.mean():+.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="what", required=True)
    make = parts.add_parser("stems")
    make.add_argument("manifest", type=Path)
    make.add_argument("folder", type=Path)
    make.add_argument("--seconds", type=float, default=60.0)
    measure = parts.add_parser("test")
    measure.add_argument("folder", type=Path)
    measure.add_argument("model")
    given = parser.parse_args()
    if given.what == "stems":
        stems(given.manifest, given.folder, given.seconds)
    else:
        test(given.folder, given.model)
