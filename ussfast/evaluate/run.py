"""`ussfast evaluate`: SI-SDR improvement of a model on the development mixtures of a manifest."""

from pathlib import Path

import numpy as np

from ussfast.evaluate.dev import TASKS, dev_mixtures
from ussfast.evaluate.metrics import improvements
from ussfast.separator import Separator
from ussfast.train.data import AudioPool, read_manifest

Scores = dict[str, dict[str, float]]


def evaluate_model(model: str, manifest: Path, device: str = "auto", count: int = 40) -> Scores:
    """Mean SI-SDR improvement in dB over the mixture: {task: {prompt: dB, "mean": dB}}; mean is over all sources."""
    separator = Separator(model, device=device)
    items = [item for item in read_manifest(manifest) if item.split == "dev"]
    pool = AudioPool.load(items, separator.sample_rate)
    found: dict[str, list[tuple[str, float]]] = {task: [] for task in TASKS}
    for item in dev_mixtures(pool, count):
        out = separator.separate(item.mixture, separator.sample_rate, prompts=item.prompts)
        values = improvements(item.mixture, out.stems[:, 0], item.references, item.prompts)
        found[item.task] += [(p, v) for p, v in zip(item.prompts, values, strict=True) if v is not None]
    scores: Scores = {}
    for task, pairs in found.items():
        names = dict.fromkeys(name for name, _ in pairs)
        scores[task] = {name: float(np.mean([v for n, v in pairs if n == name])) for name in names}
        scores[task]["mean"] = float(np.mean([v for _, v in pairs]))
    return scores


def table(scores: Scores) -> str:
    """A Markdown table of the scores."""
    lines = ["| task | SI-SDR improvement (dB) | per prompt |", "|---|---|---|"]
    for task, values in scores.items():
        each = ", ".join(f"{name} {value:+.1f}" for name, value in values.items() if name != "mean")
        lines.append(f"| {task} | {values['mean']:+.2f} | {each} |")
    return "\n".join(lines)
