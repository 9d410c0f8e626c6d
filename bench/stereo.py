"""Masks of their own for each channel, or the same for all: what that means for panned sources, and what it costs.

    python bench/stereo.py MANIFEST --model default --count 20

Mixtures are those of `ussfast evaluate`, with each source panned at random, at constant power, by at most `width` of
the way to either side. Printed for each width: mean SI-SDR improvement of the stereo stems; how far the level
difference of the channels is from the source's, in blocks of 0.1 s within 30 dB of the loudest, weighted by energy; CPU
time, on one thread, per second of audio. With --opposite the right channel of every source is inverted.
"""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ussfast.data.pool import AudioPool, read_manifest
from ussfast.engine.settings import CHANNELS
from ussfast.evaluate.dev import DevMixture, dev_mixtures
from ussfast.evaluate.metrics import audible, best_order, si_sdr
from ussfast.separator import Separator

BLOCK_SECONDS = 0.1
LARGEST_DB = 30.0  # a level difference is limited to this: behind it one channel is silent


@dataclass
class Row:
    """Figures of one kind of masks, over mixtures."""

    improvements: list[float] = field(default_factory=list)
    errors: list[float] = field(default_factory=list)
    seconds: float = 0.0
    audio: float = 0.0

    def __str__(self) -> str:
        gain, error = np.mean(self.improvements), np.mean(self.errors)
        return f"{gain:.2f} | {error:.2f} | {self.seconds / self.audio:.3f} |"


def panned(item: DevMixture, width: float, opposite: bool, rng: np.random.Generator) -> np.ndarray:
    """References float32 [sources, 2, samples]."""
    angle = np.pi / 4 * (1 + width * rng.uniform(-1, 1, len(item.references)))
    gains = np.stack([np.cos(angle), np.sin(angle) * (-1 if opposite else 1)], 1)
    return (gains[..., None] * item.references[:, None]).astype(np.float32)


def level_error(estimate: np.ndarray, reference: np.ndarray, rate: int) -> float:
    """Of the difference between two channels, in dB."""
    size = round(BLOCK_SECONDS * rate)
    whole = reference.shape[1] // size * size
    est, ref = (np.square(x[:, :whole], dtype=np.float64).reshape(2, -1, size).sum(2) for x in (estimate, reference))
    energy = ref.sum(0)
    heard = energy > 1e-3 * energy.max()
    differences = [np.clip(10 * np.log10((e[0] + 1e-12) / (e[1] + 1e-12)), -LARGEST_DB, LARGEST_DB) for e in (est, ref)]
    return float(np.average(np.abs(differences[0] - differences[1])[heard], weights=energy[heard]))


def measure(separator: Separator, item: DevMixture, references: np.ndarray, row: Row) -> None:
    mixture, rate = references.sum(0), separator.sample_rate
    before = time.process_time()
    stems = separator.separate(mixture, rate, prompts=item.prompts).stems
    row.seconds += time.process_time() - before
    row.audio += mixture.shape[1] / rate
    order = best_order(stems.reshape(len(stems), -1), references.reshape(len(stems), -1), item.prompts)
    for reference, place in zip(references, order, strict=True):
        if audible(reference):
            row.improvements.append(si_sdr(stems[place], reference) - si_sdr(mixture, reference))
            row.errors.append(level_error(stems[place], reference, rate))


def main(
    manifest: Path,
    model: str = "default",
    count: Annotated[int, typer.Option(help="Mixtures per task.")] = 20,
    width: Annotated[list[float] | None, typer.Option(help="Repeat for more; 1, 0.5 and 0.2 if not given.")] = None,
    opposite: Annotated[bool, typer.Option("--opposite", help="Right channels inverted.")] = False,
) -> None:
    torch.set_num_threads(1)
    separators = {name: Separator(model, device="cpu", channels=name) for name in CHANNELS}
    rate = next(iter(separators.values())).sample_rate
    pool = AudioPool.load([item for item in read_manifest(manifest) if item.split == "dev"], rate)
    print(f"{model}, {count} mixtures per task{', opposite' if opposite else ''}\n")
    print("| width | channels | SI-SDR improvement (dB) | level difference off by (dB) | CPU s per s |")
    print("|---|---|---|---|---|")
    for share in width or (1.0, 0.5, 0.2):
        rows = {name: Row() for name in CHANNELS}
        for number, item in enumerate(dev_mixtures(pool, count)):
            references = panned(item, share, opposite, np.random.default_rng(number))
            for name, separator in separators.items():
                measure(separator, item, references, rows[name])
        for name, row in rows.items():
            print(f"| {share:g} | {name} | {row}", flush=True)


if __name__ == "__main__":
    typer.run(main)
