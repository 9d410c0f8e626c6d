"""Recordings of two sounds at once, made of a manifest, as `ussfast train remix` takes them:

    python scripts/mix_recordings.py data/manifest.json mixtures

makes mixtures/recordings/NNNN.flac of the split train, of which no source is written anywhere, and of the split dev
mixtures/dev/NNNN/PROMPT.flac, stems to validate on. In recordings, as they are made in the field, the first prompt is
heard for a part of the time only; in what is validated on, all the time.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile

from ussfast.data.credits import credits
from ussfast.data.pool import AudioPool, Item, read_manifest
from ussfast.errors import InputError, UssfastError

LEVEL = 0.1  # RMS of a recording
QUIET = 1e-7  # power of a part in which nothing is heard


def pools(
    manifest: Path, prompts: list[str], split: str, rate: int, rng: np.random.Generator, most: float
) -> Iterator[AudioPool]:
    """A pool of each prompt, of `most` seconds of audio chosen at random."""
    items = [item for item in read_manifest(manifest) if item.split == split]
    for prompt in prompts:
        own = [item for item in items if item.prompt == prompt]
        if not own:
            raise InputError(f"{manifest}: nothing of split {split} has the prompt {prompt}")
        chosen: list[Item] = []
        for index in rng.permutation(len(own)):
            if sum(item.seconds for item in chosen) < most:
                chosen.append(own[index])
        yield AudioPool.load(chosen, rate)


def drawn(
    every: list[AudioPool], rng: np.random.Generator, count: int, snr_db: tuple[float, float], heard: float = 1.0
) -> np.ndarray:
    """float32 [sources, samples]: while it is heard, the first source is louder than each other one by a ratio within
    `snr_db`.

    heard: share of the time that the first one is there, from a random place on.
    """
    rows = []
    for number, pool in enumerate(every):
        power, wanted = 0.0, count if number else round(heard * count)
        while power < QUIET:
            index = int(rng.integers(len(pool.items)))
            length = int(pool.length[index])
            at = int(rng.integers(max(1, length - wanted + 1)))
            part = pool.crops(np.array([index]), np.array([at]), min(wanted, length))[0].numpy()
            power = float(np.mean(part**2))
        row, start = np.zeros(count), int(rng.integers(count - wanted + 1))
        row[start : start + wanted] = np.resize(part, wanted) / power**0.5  # a shorter one goes round
        rows.append(row)
    sources = np.stack(rows)
    sources[1:] *= 10 ** (-rng.uniform(*snr_db, (len(rows) - 1, 1)) / 20)
    return (sources * LEVEL / sources.sum(0).std()).clip(-1, 1).astype(np.float32)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--prompts", nargs="+", default=["speech", "sfxbg"])
    parser.add_argument("--minutes", type=float, default=150.0, help="of recordings")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each")
    parser.add_argument("--heard", type=float, nargs=2, default=(0.25, 0.7), help="share of it that the first is there")
    parser.add_argument("--dev", type=int, default=48, help="pieces with stems")
    parser.add_argument("--dev-seconds", type=float, default=4.0, help="of each")
    parser.add_argument("--snr", type=float, nargs=2, default=(0.0, 5.0), help="of the first prompt over others, in dB")
    parser.add_argument("--rate", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    rng, rate = np.random.default_rng(options.seed), options.rate
    if options.output.exists():
        print(f"{options.output}: is there already", file=sys.stderr)
        return 1
    try:
        train = list(pools(options.manifest, options.prompts, "train", rate, rng, 60 * options.minutes))
        dev = list(pools(options.manifest, options.prompts, "dev", rate, rng, 1200.0))
    except UssfastError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    (options.output / "recordings").mkdir(parents=True)
    count = round(60 * options.minutes / options.seconds)
    for number in range(count):
        heard = rng.uniform(*options.heard)
        mixture = drawn(train, rng, round(options.seconds * rate), options.snr, heard).sum(0)
        soundfile.write(options.output / "recordings" / f"{number:04d}.flac", mixture, rate)
    for number in range(options.dev):
        folder = options.output / "dev" / f"{number:04d}"
        folder.mkdir(parents=True)
        stems = drawn(dev, rng, round(options.dev_seconds * rate), options.snr)
        for prompt, stem in zip(options.prompts, stems, strict=True):
            soundfile.write(folder / f"{prompt}.flac", stem, rate)
    used = [item for pool in train for item in pool.items]
    (options.output / "CREDITS.md").write_text(credits(used, "recordings"))
    print(f"{options.output}: {count} recordings of {options.seconds:g} s, {options.dev} pieces with stems")
    return 0


if __name__ == "__main__":
    sys.exit(main())
