"""What `sum_to_mixture` does to SI-SDR: mean improvement over the mixture with and without, task by task.

    python bench/sums.py MANIFEST --model default --count 20

Mixtures are those of `ussfast evaluate`. The last column is how far the stems' sum is from the mixture without it.
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from ussfast.audio.remix import Remix
from ussfast.data.pool import AudioPool, read_manifest
from ussfast.evaluate.dev import TASKS, DevMixture, dev_mixtures
from ussfast.evaluate.metrics import improvements, level_db
from ussfast.separator import Separator


def score(item: DevMixture, stems: np.ndarray) -> float:
    """Mean over the sources that can be heard."""
    each = improvements(item.mixture, stems[:, 0], item.references, item.prompts)
    return float(np.mean([x for x in each if x is not None]))


def main(
    manifest: Path,
    model: str = "default",
    count: Annotated[int, typer.Option(help="Mixtures per task.")] = 20,
) -> None:
    separator = Separator(model, device="cpu")
    pool = AudioPool.load([item for item in read_manifest(manifest) if item.split == "dev"], separator.sample_rate)
    found: dict[str, list[tuple[float, float, float]]] = {task: [] for task in TASKS}
    for item in dev_mixtures(pool, count):
        out = separator.separate(item.mixture, separator.sample_rate, prompts=item.prompts)
        shared = Remix(sum_to_mixture=True)(out.stems, out.mixture)
        found[item.task].append((score(item, out.stems), score(item, shared), level_db(out.residual, item.mixture)))
    print(f"{model}, {count} mixtures per task\n")
    print("| task | without (dB) | with (dB) | difference | rest (dB) |\n|---|---|---|---|---|")
    for task, rows in [*found.items(), ("mean", sum(found.values(), []))]:
        without, with_sum, rest = np.mean(rows, 0)
        print(f"| {task} | {without:.2f} | {with_sum:.2f} | {with_sum - without:+.2f} | {rest:.1f} |")


if __name__ == "__main__":
    typer.run(main)
