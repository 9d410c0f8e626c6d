"""From a run's checkpoints to a model directory: the best weights, or the mean of the best if that is better.

Source of the averaging: Wortsman et al., "Model soups", ICML 2022; averaging the best checkpoints of one run is older.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.store import save_model
from ussfast.errors import InputError
from ussfast.models import SpectralModel, build
from ussfast.train import checkpoints

Measure = Callable[[SpectralModel], float]


def average(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The arithmetic mean of every floating tensor, in float32; other tensors as in the first."""
    mean: dict[str, Tensor] = {}
    for name, first in weights[0].items():
        stack = torch.stack([one[name].float() for one in weights]) if first.is_floating_point() else None
        mean[name] = first if stack is None else stack.mean(0).to(first.dtype)
    return mean


def keep_newest(run: Path, output: Path) -> Path:
    """The newest checkpoint's weights as they are, as a float16 model directory that another run can begin with.

    Raises:
        InputError: there is no checkpoint, or `output` holds something else than a model.
    """
    folder = checkpoints.newest(run)
    if folder is None:
        raise InputError(f"{run}: no checkpoint to keep")
    config, weights, facts = checkpoints.load_weights(folder, mean=False)
    model = build(config)
    model.load_state_dict(weights)
    source = {"trained_with": "ussfast train", "step": facts["step"], "hours": round(facts["seconds"] / 3600, 2)}
    about = "weights in the middle of their training; see the run's CREDITS.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(output, model, name=output.name, license=about, source=source, dtype=torch.float16, overwrite=True)
    return output


def export(
    run: Path,
    name: str,
    license: str,
    measure: Measure | None = None,
    say: Callable[[str], None] = lambda line: None,
    newest: bool = False,
) -> Path:
    """The best weights of a run (the newest, if none was validated) as a float16 model directory.

    Args:
        newest: takes the newest without a comparison: where the learning rate has just fallen to 0, validation on few
            mixtures tells less than that.
        measure: validates a model, higher is better. If given, the mean of all best weights takes the place of the
            single best unless it is worse.
        say: gets a line with both numbers.
    Raises:
        InputError: there is no checkpoint.
    """
    found = [] if newest else checkpoints.best(run)
    folder = found[0] if found else checkpoints.newest(run)
    if folder is None:
        raise InputError(f"{run}: no checkpoint to export")
    config, weights, facts = checkpoints.load_weights(folder)
    model = build(config)
    model.load_state_dict(weights)
    source: dict[str, Any] = {
        "trained_with": "ussfast train", "step": facts["step"], "hours": round(facts["seconds"] / 3600, 2)
    }  # fmt: skip
    if measure is not None and len(found) > 1:
        several = [checkpoints.load_weights(folder) for folder in found]
        steps = sorted(facts["step"] for _, _, facts in several)
        single = measure(model)
        model.load_state_dict(average([weights for _, weights, _ in several]))
        mean = measure(model)
        better = mean >= single
        say(
            f"mean SI-SDR improvement: step {facts['step']} {single:+.2f} dB, average of steps "
            f"{', '.join(map(str, steps))} {mean:+.2f} dB; exporting the {'average' if better else 'single step'}"
        )
        if better:
            source["averaged_steps"] = steps
        else:
            model.load_state_dict(weights)
    model.cpu()
    save_model(run / "model", model, name=name, license=license, source=source, dtype=torch.float16, overwrite=True)
    return run / "model"
