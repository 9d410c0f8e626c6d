"""Validation figures are of one dev set: which one, and the best weights anew where it is another one."""

import hashlib
from pathlib import Path

import numpy as np
import torch

from ussfast.checkpoints.store import fill
from ussfast.errors import CheckpointError
from ussfast.evaluate.dev import DevMixture
from ussfast.train import checkpoints
from ussfast.train.folders import Say
from ussfast.train.recipe import Recipe
from ussfast.train.validation import validate


def fingerprint(dev: list[DevMixture]) -> str | None:
    """Of the mixtures that are validated on, their references and prompts; None if there are none."""
    if not dev:
        return None
    found = hashlib.blake2b(digest_size=16)
    for item in dev:
        found.update(repr((item.task, item.prompts, item.references.shape)).encode())
        for part in (item.mixture, item.references):
            found.update(np.asarray(part, np.float32).tobytes())
    return found.hexdigest()


def validated_anew(
    directory: Path, recipe: Recipe, dev: list[DevMixture], device: torch.device, say: Say
) -> list[tuple[int, float]]:
    """Validates the best weights of a run on other mixtures than before, and writes the figures into their folders.

    say: gets a line with both figures of each.
    Returns:
        (step, mean), the best first.
    """
    found, lines = [], []
    for folder in checkpoints.best(directory, say):
        try:
            config, weights, facts = checkpoints.load_weights(folder)
            if config != recipe.model:
                raise CheckpointError(f"{folder}: is of another model")
            model = fill(config, weights, str(folder)).to(device)
        except CheckpointError as error:
            say(f"{error}; it is left out")
            continue
        mean = float(np.mean(list(validate(model, dev, device).values())))
        checkpoints.save_weights(folder, recipe, weights, facts | {"mean": mean, "dev": fingerprint(dev)})
        found.append((facts["step"], mean))
        lines.append(f"step {facts['step']} {mean:+.2f} dB (was {facts.get('mean', facts.get('best')):+.2f})")
    say(f"other development mixtures than before; the best weights on these: {', '.join(lines) or 'none'}")
    return sorted(found, key=lambda pair: (-pair[1], -pair[0]))[: recipe.run.keep_best]
