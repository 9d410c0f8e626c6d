"""`ussfast finetune`: a model that there is learns from a user's stems, in minutes.

Source of the share of new weights: Wortsman et al., "Robust fine-tuning of zero-shot models", CVPR 2022 (weights
between the old and the new ones keep most of what either can do).
"""

import dataclasses
import json
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ussfast.audio.atomic import atomic_write, write_failure
from ussfast.checkpoints.names import CONFIG
from ussfast.checkpoints.store import check_target, place, save_model
from ussfast.data.credits import credits
from ussfast.errors import CheckpointError, InputError
from ussfast.models import SpectralModel
from ussfast.plain import read_json
from ussfast.train import checkpoints
from ussfast.train.log import Row
from ussfast.train.run import Job
from ussfast.train.trainer import Trainer
from ussfast.train.transfer import Transfer
from ussfast.train.transfer_parts import learning, of_part
from ussfast.train.transfer_recipe import load_transfer_recipe
from ussfast.train.transfer_runs import TransferOptions, begin, pools, stage_recipe, used_items, work_of
from ussfast.train.transfer_start import model_rate
from ussfast.tuning.joint import copy_beside

RECIPE = "finetune"
FACTS = "finetune.json"  # of a run folder: what the run is of
SHARES = (0.25, 0.5, 0.75)  # of the new weights; 1 and 0 are tried in any case
ENOUGH = 0.95  # of what the new weights gain on held-out parts: the smallest share that keeps that is taken
Say = Callable[[str], None]
Rows = Callable[[Row], None]


@dataclass(frozen=True)
class Finetuned:
    """What came of it. before, after: SI-SDR improvement in dB on parts that were held out, by stem, of the untouched
    model and of the one that was written; share: of the new weights in it, 0 where nothing was better than before.

    asks: what the model is asked for each stem, in order; empty for models without prompts.
    """

    model: Path
    run: Path
    before: dict[str, float]
    after: dict[str, float]
    share: float
    steps: int
    asks: tuple[str, ...]

    @property
    def gain(self) -> float:
        """Mean over stems, in dB."""
        return _mean(self.after) - _mean(self.before)


def finetune(
    model: str,
    stems: Path,
    output: Path,
    options: TransferOptions,
    *,
    minutes: float | None = 5.0,
    steps: int | None = None,
    device: str = "auto",
    recipe: str = RECIPE,
    overwrite: bool = False,
    say: Say = lambda line: None,
    on_row: Rows = lambda row: None,
    on_step: Rows = lambda row: None,
) -> Finetuned:
    """Trains a copy of a model on stems, and writes the better one of both, or one between them, as a model directory.

    The run lies in a folder beside it, and goes on there when it is called again.

    Args:
        model: name or directory. stems: manifest or folder, see `ussfast.data.stems.read_pieces`.
        output: model directory to make. options: source and stage are set here.
        minutes: of training, at most; validations count. steps: of the run as a whole.
        overwrite: replaces a model that is there and was not made by this run.
        say: gets lines about what it begins with, and the report of a run that is stopped.
        on_row, on_step: as of `Trainer.run`.
    Raises:
        InputError, AudioError: stems that do not fit together, by their files' names; a run folder of other stems.
        KeyboardInterrupt: after the best so far was written, if there was any.
    """
    options = dataclasses.replace(options, stage="finetune", source=model)
    target = place(output)
    run = target.with_name(target.name + ".run")
    check_target(target, overwrite or _made_by(run, target))
    job = Job(recipe, stems, run, minutes, device, steps)
    chosen = stage_recipe(job.stepped(load_transfer_recipe(recipe)), options)
    accelerator, where = job.processes()
    train, held = pools(stems, chosen.license_classes, options, model_rate(model), True)
    beginning = begin(chosen, train, options)
    for note in beginning.notes:
        say(note)
    work = work_of(chosen, train, held, beginning, where, options)
    untouched = beginning.build().to(where)
    if options.train != "whole":
        of_part(untouched, options.train)  # said before anything is measured
    _check_run(run, work)
    before = work.means(work.scores(untouched))
    say(f"before: {shown(before)}; held out are {len(work.excerpts)} excerpts")
    trainer = Trainer(work, run, accelerator)
    for note in trainer.notes:
        say(note)
    if trainer.step:
        say(f"{run}: goes on from step {trainer.step}")
    _write_facts(run, work, target)
    say(f"{learning(trainer.model) / 1e6:.2f} M numbers learn on {where}; the run is in {run}")
    stopped: KeyboardInterrupt | None = None
    try:
        trainer.run(minutes, on_row, on_step)
        if trainer.step < trainer.recipe.optim.steps and trainer.step % trainer.recipe.run.validate_every:
            on_row(trainer.validated())  # time was up between two of them, or before the first one
    except KeyboardInterrupt as interrupt:
        stopped = interrupt
        if not checkpoints.best(run):
            raise
    after, share = _between(work, untouched, run, before, say)
    found = Finetuned(target, run, before, after, share, trainer.step, beginning.asks)
    _write(found, work, untouched)
    if stopped is not None:
        for line in report(found, model):
            say(line)
        raise stopped
    return found


def shown(means: dict[str, float]) -> str:
    """Improvements as text."""
    each = "  ".join(f"{name} {value:+.2f}" for name, value in means.items())
    return f"{each}  mean {_mean(means):+.2f} dB"


def report(found: Finetuned, base: str) -> list[str]:
    """What there is to say in the end."""
    lines = [f"SI-SDR improvement on held-out parts, {base} -> {found.model.name}:"]
    width = max(map(len, (*found.before, "mean")))
    for name, old in (*found.before.items(), ("mean", _mean(found.before))):
        new = _mean(found.after) if name == "mean" and name not in found.after else found.after[name]
        lines.append(f"  {name:{width}}  {old:+.2f} -> {new:+.2f} dB")
    kept = f"{found.share:.0%} of the new weights" if found.share else f"nothing was better: it is {base} as it was"
    ask = shlex.join(["-p", ",".join(found.asks)]) if found.asks else ""
    lines.append(f"{found.steps} steps, {kept}; the same command goes on in {found.run}")
    lines.append(f"to use it: ussfast separate FILE -m {shlex.quote(str(found.model))} {ask}".rstrip())
    return lines


def _mean(means: dict[str, float]) -> float:
    return sum(means.values()) / max(1, len(means))


def _between(
    work: Transfer, model: SpectralModel, run: Path, before: dict[str, float], say: Say
) -> tuple[dict[str, float], float]:
    """Leaves the model with the weights that are taken; what these give, and the share of new ones in them."""
    old = {name: value.clone() for name, value in model.state_dict().items()}
    candidates = checkpoints.best(run, say)
    new = None
    for folder in candidates:
        config, weights, _ = checkpoints.load_weights(folder)
        if config == work.recipe.model and weights.keys() == old.keys():
            new = weights
            break
    if new is None:
        return before, 0.0
    tried: dict[float, dict[str, float]] = {0.0: before}
    for share in (1.0, *SHARES):
        model.load_state_dict(mixed(old, new, share))
        tried[share] = work.means(work.scores(model))
    most = max(tried.values(), key=_mean)
    least = _mean(before) + ENOUGH * (_mean(most) - _mean(before))
    share = min(share for share, found in tried.items() if _mean(found) >= least)
    model.load_state_dict(mixed(old, new, share))
    return tried[share], share


def mixed(old: dict[str, Tensor], new: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Weights on the way from the old to the new ones; whole numbers are those of the new ones."""
    found = {}
    for name, value in old.items():
        there = new[name].to(value)
        found[name] = torch.lerp(value, there, share) if value.is_floating_point() else there
    return found


def _identity(work: Transfer) -> dict[str, Any]:
    info = work.beginning.info
    return {"base": info.fingerprint if info else "", "held_out": work.dev_set, "train": work.part}


def _facts_of(run: Path) -> dict[str, Any] | None:
    try:
        found = read_json(run / FACTS)
        return found if isinstance(found, dict) else None
    except (InputError, OSError, ValueError):
        return None


def _made_by(run: Path, target: Path) -> bool:
    """Whether the model that is there is one that this run wrote: going on replaces it."""
    facts = _facts_of(run)
    return facts is not None and facts.get("output") == target.name and (target / CONFIG).is_file()


def _check_run(run: Path, work: Transfer) -> None:
    """InputError where the folder has a run of something else."""
    facts = _facts_of(run)
    if facts is None:
        if checkpoints.newest(run) is not None:
            raise InputError(f"{run}: there is another run: choose another name with -o, or remove it")
        return
    for key, value in _identity(work).items():
        if facts.get(key) != value:
            what = {"base": "another model", "held_out": "other stems", "train": f"--train {facts.get('train')}"}[key]
            raise InputError(f"{run}: the run there is of {what}: choose another name with -o, or remove it")


def _write_facts(run: Path, work: Transfer, target: Path) -> None:
    facts = _identity(work) | {"output": target.name}
    try:
        with atomic_write(run / FACTS) as path:
            path.write_text(json.dumps(facts) + "\n")
    except OSError as error:
        raise write_failure(run / FACTS, error) from error


def _write(found: Finetuned, work: Transfer, model: SpectralModel) -> None:
    """The model directory: weights, what they were made of, credits, and what else belongs to such a model."""
    info = work.beginning.info
    assert info is not None
    names = ", ".join(work.mixer.pool.names)
    source = {
        "fine_tuned_from": f"{info.name} ({info.fingerprint[:12]})",
        "stems": list(work.mixer.pool.names),
        "stem_minutes": round(work.mixer.pool.seconds / 60, 2),
        "steps": found.steps,
        "train": work.part,
        "share": found.share,
        "held_out_si_sdr_improvement": [round(_mean(found.before), 2), round(_mean(found.after), 2)],
    }
    license = f"{info.license}; fine-tuned on your stems ({names})"[:1000]
    target = found.model
    try:
        save_model(target, model.cpu(), name=target.name, license=license, source=source, overwrite=True)
    except CheckpointError as error:
        raise CheckpointError(f"{target}: {error}: train with fewer steps") from None
    own = credits(used_items(work.mixer.pool), target.name).replace("was trained on", "was fine-tuned on", 1)
    before = "" if info.path is None else _text(info.path / "CREDITS.md")
    with atomic_write(target / "CREDITS.md") as path:
        path.write_text(f"{before.rstrip()}\n\n{own}".lstrip())
    if info.path is not None:
        copy_beside(info.path, target)
    work.finish(target)


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError):
        return ""
