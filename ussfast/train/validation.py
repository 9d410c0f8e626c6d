"""Validation: SI-SDR improvement on development mixtures, in batches on the training device."""

from collections.abc import Iterator

import numpy as np
import torch

from ussfast.evaluate.dev import TASKS, DevMixture
from ussfast.evaluate.metrics import improvements
from ussfast.models import SpectralModel
from ussfast.train.objective import prompt_rows

Pairs = list[tuple[str, float]]  # task, improvement of one source in dB


def validate(
    model: SpectralModel, dev: list[DevMixture], device: torch.device | str = "cpu", batch: int = 6
) -> dict[str, float]:
    """Mean SI-SDR improvement in dB per task, over all sources of its mixtures."""
    return means(source_scores(model, dev, device, batch))


def means(pairs: Pairs) -> dict[str, float]:
    """The mean per task, in the order of TASKS and then of appearance; tasks without sources are left out."""
    found: dict[str, list[float]] = {task: [] for task in TASKS}
    for task, value in pairs:
        found.setdefault(task, []).append(value)
    return {task: float(np.mean(values)) for task, values in found.items() if values}


@torch.inference_mode()
def source_scores(
    model: SpectralModel, dev: list[DevMixture], device: torch.device | str = "cpu", batch: int = 6
) -> Pairs:
    """The task and the improvement of every source that is not silent; up to `batch` mixtures at a time."""
    model.eval()
    pairs: Pairs = []
    for items in _alike(dev, batch):
        mixtures = torch.from_numpy(np.stack([item.mixture for item in items])).to(device)
        rows = prompt_rows(model, [item.prompts for item in items])
        estimates = model.separate(mixtures, rows).float().cpu().numpy()
        for item, estimate in zip(items, estimates, strict=True):
            found = improvements(item.mixture, estimate, item.references, item.prompts)
            pairs += [(item.task, value) for value in found if value is not None]
    return pairs


def _alike(dev: list[DevMixture], batch: int) -> Iterator[list[DevMixture]]:
    """Runs of neighbours of one length and number of sources."""
    run: list[DevMixture] = []
    for item in dev:
        if run and (len(run) == batch or item.references.shape != run[0].references.shape):
            yield run
            run = []
        run.append(item)
    if run:
        yield run
