"""From a run's checkpoints to a model directory: the best weights, or the mean of the best if that is better.

Source of the averaging: Wortsman et al., "Model soups", ICML 2022; averaging the best checkpoints of one run is older.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.checkpoints.store import save_model
from ussfast.errors import InputError
from ussfast.models import Network, build_network
from ussfast.train import checkpoints
from ussfast.train.folders import Damaged, Say, first_whole
from ussfast.train.log import SI_SDR, Measure

Figure = Callable[[Network], float]


def average(weights: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The arithmetic mean of every floating tensor, in float32; other tensors as in the first."""
    mean: dict[str, Tensor] = {}
    for name, first in weights[0].items():
        stack = torch.stack([one[name].float() for one in weights]) if first.is_floating_point() else None
        mean[name] = first if stack is None else stack.mean(0).to(first.dtype)
    return mean


def _nothing(line: str) -> None:
    pass


def _loaded(folder: Path, mean: bool = True) -> tuple[Network, dict[str, Tensor], dict[str, Any]]:
    """Model, weights and facts of a checkpoint."""
    config, weights, facts = checkpoints.load_weights(folder, mean)
    model = build_network(config)
    try:
        model.load_state_dict(weights)
    except RuntimeError:
        raise Damaged(f"{folder}: its weights are not those of its model") from None
    return model, weights, facts


def keep_newest(run: Path, output: Path, say: Say = _nothing) -> Path:
    """The newest checkpoint's weights as they are, as a float16 model directory that another run can begin with.

    say: gets a line for each checkpoint that cannot be read, in place of which an earlier one is taken.

    Raises:
        InputError: there is no checkpoint, or none that can be read, or `output` holds something else than a model.
    """
    found = first_whole(checkpoints.full(run), lambda folder: _loaded(folder, mean=False), say)
    if found is None:
        raise InputError(f"{run}: no checkpoint to keep")
    model, _, facts = found[1]
    source = {"trained_with": "ussfast train", "step": facts["step"], "hours": round(facts.get("seconds", 0) / 3600, 2)}
    about = "weights in the middle of their training; see the run's CREDITS.md"
    output.parent.mkdir(parents=True, exist_ok=True)
    save_model(output, model, name=output.name, license=about, source=source, dtype=torch.float16, overwrite=True)
    return output


def export(
    run: Path,
    name: str,
    license: str,
    measure: Figure | None = None,
    say: Say = _nothing,
    newest: bool = False,
    by: Measure = SI_SDR,
) -> Path:
    """The best weights of a run (the newest, if none was validated) as a float16 model directory.

    Args:
        newest: takes the newest without a comparison: where the learning rate has just fallen to 0, validation on few
            mixtures tells less than that.
        measure: validates a model, higher is better. If given, the mean of all best weights takes the place of the
            single best unless it is worse.
        by: what `measure` measures.
        say: gets a line with both numbers, and one for each checkpoint that cannot be read.
    Raises:
        InputError: there is no checkpoint.
    """
    found = [] if newest else checkpoints.best(run, say)
    chosen = first_whole(found or checkpoints.full(run), _loaded, say)
    if chosen is None:
        raise InputError(f"{run}: no checkpoint to export")
    folder, (model, weights, facts) = chosen
    source: dict[str, Any] = {
        "trained_with": "ussfast train", "step": facts["step"], "hours": round(facts.get("seconds", 0) / 3600, 2)
    }  # fmt: skip
    if measure is not None and len(found) > 1:
        several = [(weights, facts), *_alike(found[found.index(folder) + 1 :], model, say)]
        steps = sorted(facts["step"] for _, facts in several)
        single = measure(model)
        model.load_state_dict(average([weights for weights, _ in several]))
        mean = measure(model)
        better = mean >= single
        say(
            f"mean {by.name}: step {facts['step']} {by.shown(single)}, average of steps "
            f"{', '.join(map(str, steps))} {by.shown(mean)}; exporting the {'average' if better else 'single step'}"
        )
        if better:
            source["averaged_steps"] = steps
        else:
            model.load_state_dict(weights)
    model.cpu()
    save_model(run / "model", model, name=name, license=license, source=source, dtype=torch.float16, overwrite=True)
    return run / "model"


def _alike(folders: list[Path], model: Network, say: Say) -> Iterator[tuple[dict[str, Tensor], dict[str, Any]]]:
    """Weights and facts of those of the checkpoints that are of the same model as this one."""
    for folder in folders:
        try:
            other, weights, facts = _loaded(folder)
            if other.config != model.config:
                raise Damaged(f"{folder}: is of another model")
            yield weights, facts
        except Damaged as error:
            say(f"{error}; it is left out")
