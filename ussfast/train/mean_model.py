"""The mean of models whose training had much in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ussfast.checkpoints.store import load_model, save_model
from ussfast.errors import InputError
from ussfast.train.export import average

CREDITS = "CREDITS.md"


def mean_model(models: Sequence[Path], output: Path) -> Path:
    """A float16 model directory whose weights are the mean of those of `models`, each counting the same.

    Of models that left one run at different times, after their learning rate had fallen, the mean may be better than
    any of them; of models that were trained apart it is worth nothing. Name and licence are the first one's; credits
    are those of all.

    Raises:
        InputError: fewer than two, models of different configurations, or `output` holds something else than a model.
        CheckpointError: a directory that is none.
    Source: Izmailov et al., "Averaging weights leads to wider optima and better generalization", UAI 2018.
    """
    if len(models) < 2:
        raise InputError(f"a mean is of two models at least, not of {len(models)}")
    loaded = [load_model(path) for path in models]
    model, info = loaded[0]
    for path, (_, other) in zip(models[1:], loaded[1:], strict=True):
        if other.config != info.config:
            raise InputError(f"{path} and {models[0]} are of different configurations: there is no mean of them")
    model.load_state_dict(average([one.state_dict() for one, _ in loaded]))
    names = [path.name for path in models]
    if len(set(names)) < len(names):  # such as "model", which is what training calls all of them
        names = [f"{name} {number}" for number, name in enumerate(names, 1)]
    sources = {f"of {name}": _said(other.source) for name, (_, other) in zip(names, loaded, strict=True)}
    output.parent.mkdir(parents=True, exist_ok=True)
    source = {"mean_of": len(models), **sources}
    save_model(output, model, name=info.name, license=info.license, source=source, dtype=torch.float16, overwrite=True)
    credits = dict.fromkeys((path / CREDITS).read_text() for path in models if (path / CREDITS).is_file())
    if credits:
        (output / CREDITS).write_text("\n".join(credits))
    return output


def _said(source: Mapping[str, Any]) -> str:
    return ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in source.items())
