"""Validation figures are of one dev set: which one, and the best weights anew where it is another one."""

import hashlib
from pathlib import Path

import numpy as np

from ussfast.checkpoints.store import fill, fill_detector
from ussfast.errors import CheckpointError
from ussfast.evaluate.dev import DevMixture
from ussfast.models import DETECTORS, Network, architecture_of
from ussfast.train import checkpoints
from ussfast.train.folders import Say
from ussfast.train.work import Work


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


def validated_anew(directory: Path, work: Work, say: Say) -> list[tuple[int, float]]:
    """Validates the best weights of a run on other data than before, and writes the figures into their folders.

    say: gets a line with both figures of each.
    Returns:
        (step, mean), the best first.
    """
    recipe, measure = work.recipe, work.measure
    refill = fill_detector if architecture_of(recipe.model) in DETECTORS else fill
    found, lines = [], []
    for folder in checkpoints.best(directory, say):
        try:
            config, weights, facts = checkpoints.load_weights(folder)
            if config != recipe.model:
                raise CheckpointError(f"{folder}: is of another model")
            model: Network = refill(config, weights, str(folder)).to(work.device)
        except CheckpointError as error:
            say(f"{error}; it is left out")
            continue
        mean = work.validate(model)
        checkpoints.save_weights(folder, recipe, weights, facts | {"mean": mean, "dev": work.dev_set})
        found.append((facts["step"], mean))
        before = float(facts.get("mean", facts.get("best", 0.0)))
        lines.append(f"step {facts['step']} {measure.shown(mean)} (was {measure.shown(before, unit=False)})")
    say(f"other development {measure.data} than before; the best weights on these: {', '.join(lines) or 'none'}")
    return sorted(found, key=lambda pair: (-pair[1], -pair[0]))[: recipe.run.keep_best]
