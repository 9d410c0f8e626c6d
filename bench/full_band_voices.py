"""What the default keeps of full-band voices above 8 kHz: those of a manifest that it was not trained on, by speaker.

    python bench/full_band_voices.py data/manifest.json

Voices of the dev split, and of the training split where their licence keeps them out of the recipe; backgrounds of the
dev split, levels as in `ussfast evaluate`. Prints Markdown: dB kept alone, in the background, and SI-SDR improvement.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer

from ussfast.data.pool import AudioPool, read_manifest
from ussfast.evaluate.conditions import high_band, high_band_mixtures
from ussfast.evaluate.metrics import si_sdr
from ussfast.separator import Separator
from ussfast.train.recipe import load_recipe

SECONDS, SEED = 5.0, 0


def main(
    manifest: Annotated[Path, typer.Argument()],
    model: Annotated[str, typer.Option("--model", "-m")] = "default",
    recipe: Annotated[str, typer.Option(help="What says which licences were trained on.")] = "default",
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Mixtures of all voices together.")] = 120,
) -> None:
    torch.set_num_threads(1)
    separator, trained = Separator(model), load_recipe(recipe).license_classes
    unseen = [
        item for item in read_manifest(manifest)
        if item.split == "dev" or (item.prompt == "speech" and item.license_class not in trained)
    ]  # fmt: skip
    pool = AudioPool.load(unseen, separator.sample_rate)
    mixtures = list(high_band_mixtures(pool, count, SECONDS, SEED))
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for item, found in zip(mixtures, high_band(separator, iter(mixtures)), strict=True):
        stem = separator.separate(item.mixture, pool.rate, prompts=item.prompts).stems[0, 0]
        gain = si_sdr(stem, item.references[0]) - si_sdr(item.mixture, item.references[0])
        speaker = str(pool.items[item.items[0]].speaker)
        rows.setdefault(speaker, []).append((found.alone_db, found.voice_db, gain))
    print("| voice | mixtures | alone, mean / median (dB) | in the background | SI-SDRi (dB) |\n|---|---|---|---|---|")
    for speaker, own in sorted(rows.items()):
        (a, b, g), (am, bm, _) = np.mean(own, 0), np.median(own, 0)
        print(f"| {speaker} | {len(own)} | {a:.1f} / {am:.1f} | {b:.1f} / {bm:.1f} | {g:+.1f} |")


if __name__ == "__main__":
    typer.run(main)
