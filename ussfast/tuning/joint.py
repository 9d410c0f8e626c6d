"""Joint fine-tuning: a copy of the model learns along with the prompt. The upper bound that tuned prompts are compared
with in Liu et al., "Audio prompt tuning for universal sound separation", ICASSP 2024."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ussfast._ext import cpu_isa
from ussfast.audio.atomic import write_failure
from ussfast.audio.temporary import temporary_name
from ussfast.checkpoints.names import QUERY
from ussfast.checkpoints.store import fill, place, save_model
from ussfast.models import SpectralModel
from ussfast.ops import use_reference
from ussfast.ops._op import uses_reference
from ussfast.prompts.bank import Prompt
from ussfast.tuning.cases import Case, TuneStep
from ussfast.tuning.frozen import Ahead, waveforms
from ussfast.tuning.tuner import tune

BANK = "prompts.safetensors"  # beside the weights of models without class prompts
BESIDE = ("CREDITS.md", QUERY)  # what goes along from the directory of the model that was tuned


class Whole:
    """A copy of a model, all of whose weights learn; norms over batches keep their statistics."""

    def __init__(self, model: SpectralModel):
        self.model = fill(model.config, _cloned(model.state_dict()), "model").to(self._of(model))
        self.weights = list(self.model.parameters())
        for weight in self.weights:
            weight.requires_grad_()
        self.best: dict[str, Tensor] = {}

    @staticmethod
    def _of(model: nn.Module) -> torch.device:
        return next(model.parameters()).device

    @property
    def device(self) -> torch.device:
        return self._of(self.model)

    def ahead(self, mixtures: Tensor) -> Ahead:
        with torch.no_grad():
            spec, scale = self.model.analyze(mixtures.to(self.device))
            return Ahead(spec, (spec,), scale, mixtures.shape[-1])

    def estimate(self, ahead: Ahead, prompt: Tensor) -> Tensor:
        # As in training: models whose ops have kernels for all gradients run on them, others as plain PyTorch.
        native = getattr(self.model, "native_training", False) and cpu_isa() is not None and not uses_reference()
        with use_reference(not native):
            out = self.model(ahead.spec, prompt[None])
        return waveforms(self.model, out, ahead)

    def keep(self) -> None:
        self.best = _cloned(self.model.state_dict())


def tune_jointly(
    separator: Any,
    name: str,
    clips: Iterable[Any],
    backgrounds: Iterable[Any] | None = None,
    sample_rate: int | None = None,
    start: str | Prompt = "enrolled",
    *,
    on_step: Callable[[TuneStep], None] | None = None,
    on_better: Callable[[Callable[[], Any]], None] | None = None,
    **settings: Any,
) -> Any:
    """A Separator whose own copy of the model, all of its weights, learned to separate a sound along with its prompt.

    Of models with class prompts, `name` is one more of them; else it is a prompt in `prompts`. What other prompts ask
    for is not looked after. Where nothing better is found on held-out clips, the model is as it was.

    Args:
        separator: a Separator, which stays as it is.
        on_better: called when there is a better one than before, with a function that makes the separator of it.
        all others: see `Separator.tune`; `weights_lr` is the learning rate of the model's weights.
    Raises:
        as `Separator.tune`.
    """
    case = Case.of(separator, name, clips, backgrounds, sample_rate, start, {**settings, "folds": 1})
    whole = Whole(separator.engine.model)
    whole.keep()
    newest: list[Prompt] = []

    def better(prompt: Prompt) -> None:
        newest[:] = [prompt]
        if on_better is not None and prompt.kind == "tuned":
            on_better(lambda: _made(separator, whole.best, prompt))

    with torch.inference_mode(False), torch.enable_grad():
        found = tune(case.tuner(whole), case.watcher(better, on_step), whole.keep)
    if not found.kept:
        whole.best = _cloned(separator.engine.model.state_dict())
    return _made(separator, whole.best, case.prompt(found))


def _cloned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in tensors.items()}


def _made(separator: Any, tensors: dict[str, Tensor], prompt: Prompt) -> Any:
    old: Any = separator.engine.model
    rows = bool(old.prompt_names)
    config, tensors = old.config, {key: value.cpu() for key, value in tensors.items()}
    if rows:
        config = replace(config, prompts=(*config.prompts, prompt.name))
        tensors["prompts"] = torch.cat((tensors["prompts"], prompt.vector.cpu()[None]))
    model = fill(config, tensors, separator.info.name)
    settings = vars(separator.settings)
    made = type(separator).from_model(model, separator.default_prompts, name=separator.info.name, **settings)
    made.info = replace(
        made.info, license=separator.info.license, source={"fine_tuned_from": str(separator.mark), **_told(prompt)}
    )
    made._detector = separator._detector
    if not rows:
        made.prompts.add(prompt)
    return made


def _told(prompt: Prompt) -> dict[str, Any]:
    origin = prompt.origin
    assert origin is not None and origin.tuning is not None
    tuning = origin.tuning
    return {
        "prompt": prompt.name, "clips": origin.count, "steps": tuning.steps,
        "held_out_sdr": [round(tuning.before, 2), round(tuning.after, 2)],
    }  # fmt: skip


def save_jointly(
    made: Any,
    directory: str | os.PathLike[str],
    source: Path | None,
    *,
    clips: bool = True,
    overwrite: bool = False,
) -> None:
    """Writes what `tune_jointly` gave as a model directory; in one of a model without class prompts, its prompt lies in
    `prompts.safetensors`.

    Args:
        source: directory of the model that was tuned, whose credits and detector go along.
        clips: whether the prompt keeps them, see `Separator.save_prompts`.
    Raises:
        as `ussfast.checkpoints.store.save_model`.
    """
    target = place(directory)
    info = made.info
    save_model(
        target, made.engine.model, name=target.name, license=info.license, source=info.source, overwrite=overwrite
    )
    if source is not None:
        copy_beside(source, target)
    own = [prompt for prompt in made.prompts.values() if prompt.kind != "class"]
    if own:
        written = type(made)(target, device="cpu")  # whose fingerprint is that of the file
        for prompt in own:
            written.prompts.add(prompt)
        written.save_prompts(target / BANK, clips=clips)


def copy_beside(source: Path, target: Path) -> None:
    """What goes along from one model directory to another that is made of it; OutputError where it cannot."""
    try:
        for part in BESIDE:
            _copied(source / part, target / part)
    except OSError as error:
        raise write_failure(target, error) from error


def _copied(source: Path, target: Path) -> None:
    if not source.exists() or target.exists():
        return
    fresh = temporary_name(target)
    if source.is_dir():
        shutil.copytree(source, fresh)
    else:
        shutil.copyfile(source, fresh)
    os.rename(fresh, target)
