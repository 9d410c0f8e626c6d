"""Prompts that learn: clips and names in, a prompt out; the model stays as it is."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch

from ussfast.prompts.bank import Prompt
from ussfast.tuning.cases import Case, TuneStep
from ussfast.tuning.frozen import Frozen
from ussfast.tuning.tuner import tune

__all__ = ["TuneStep", "tune_prompt"]


def tune_prompt(
    separator: Any,
    name: str,
    clips: Iterable[Any],
    others: Iterable[Any] | None,
    sample_rate: int | None,
    start: str | Prompt,
    on_step: Callable[[TuneStep], None] | None,
    settings: Mapping[str, Any],
) -> Prompt:
    """See `Separator.tune`."""
    case = Case.of(separator, name, clips, others, sample_rate, start, settings)
    with torch.inference_mode(False), torch.enable_grad():
        tuner = case.tuner(Frozen(separator.engine.model))
        prompt = case.prompt(tune(tuner, case.watcher(separator.prompts.add, on_step)))
    separator.prompts.add(prompt)
    return prompt
