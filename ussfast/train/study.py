"""The runs of the transfer study (`ussfast.evaluate.transfer`), each with a recipe of its own seed."""

import contextlib
import copy
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ussfast.audio.atomic import atomic_write
from ussfast.engine.settings import pick_device
from ussfast.evaluate import transfer_report
from ussfast.evaluate.transfer import DataSet, Found, Stopped, Study, StudyConfig, Trained
from ussfast.evaluate.transfer_cells import AUGMENTS, TUNED, Cell, grid, only
from ussfast.train.console import clock
from ussfast.train.folders import folders
from ussfast.train.log import SI_SDR, read_log
from ussfast.train.recipe import Plain, read_recipe
from ussfast.train.run import Job
from ussfast.train.transfer_recipe import transfer_from_dict
from ussfast.train.transfer_runs import TransferOptions, train_transfer


class Runs:
    """What `Study` calls for a cell.

    Args:
        recipe: the plain form of one of kind transfer. until: time.time() at which to stop training.
        quiet: runs say nothing.
    Raises:
        InputError: not such a recipe, or one of a model that cannot be pre-trained.
    """

    def __init__(self, recipe: Plain, device: str, until: float | None = None, quiet: bool = False):
        self.rate: int = transfer_from_dict(recipe).model.sample_rate
        self.recipe, self.device, self.until, self.quiet = recipe, device, until, quiet

    def __call__(self, cell: Cell, data: DataSet, folder: Path, steps: int, start: Path | None) -> Trained:
        stage = "finetune" if cell.kind in TUNED else cell.kind
        options: dict[str, Any] = {"stage": stage, "augment": cell.augment, "stems": data.stems}
        if cell.kind in TUNED:
            options |= {"source": str(start), "train": cell.kind}
        recipe = self._written(cell, folder)
        job = Job(str(recipe), data.place, folder, None, self.device, steps, until=self.until)
        with open(os.devnull, "w") as nowhere, contextlib.ExitStack() as stack:
            if self.quiet:
                stack.enter_context(contextlib.redirect_stdout(nowhere))
            train_transfer(job, TransferOptions(**options))
        last = max(folders(folder, "step"), default=0)
        if last < steps:
            raise Stopped(f"{folder}: stopped at step {last} of {steps}; the same command goes on")
        curve = [(row["step"], row["mean"]) for row in read_log(folder) if SI_SDR.key in row]
        return Trained(folder / "model", tuple(curve))

    def _written(self, cell: Cell, folder: Path) -> Path:
        """The recipe with the seed of the cell, beside the runs; a run that goes on needs the one it began with."""
        import yaml  # there, or no recipe could have been read

        own = copy.deepcopy(self.recipe)
        own["run"] = {**own.get("run", {}), "seed": own.get("run", {}).get("seed", 0) + cell.seed}
        path = folder.parent / f"recipe-{cell.seed}.yaml"
        text = yaml.safe_dump(own, sort_keys=False)
        if not path.is_file() or path.read_text() != text:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(path) as temporary:
                temporary.write_text(text)
        return path



@dataclass(frozen=True)
class Plan:
    """What a study is asked for.

    pretrain, downstream: places of data sets by name. stems: of those sets of which some are wanted. augments, trained:
    conditions and kinds of training. seeds: how many. patterns: of the cells that are wanted, all if there are none.
    """

    pretrain: Mapping[str, Path]
    downstream: Mapping[str, Path]
    augments: Sequence[str] = AUGMENTS
    trained: Sequence[str] = ("whole", "mask", "scratch")
    seeds: int = 1
    stems: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    patterns: Sequence[str] = ()


def carry_out(
    plan: Plan, config: StudyConfig, source: str, output: Path, device: str = "auto",
    max_minutes: float | None = None, quiet: bool = False,
) -> Found:  # fmt: skip
    """The study of `ussfast evaluate transfer`, in a folder of results that is made or gone on with.

    Args:
        source: recipe, a file or the name of one. max_minutes: of training, after which what there is is returned.
    Raises:
        InputError: as `Runs`, `Study`, `DataSet.read` and `only` do.
    """
    until = None if max_minutes is None else time.time() + 60 * max_minutes
    recipe = read_recipe(source)
    runs = Runs(recipe, device, until, quiet)
    places = {**plan.pretrain, **plan.downstream}
    sets = [DataSet.read(name, place, plan.stems.get(name, ())) for name, place in places.items()]
    every = grid(list(plan.pretrain), list(plan.downstream), plan.augments, plan.trained, plan.seeds)
    cells = only(every, plan.patterns)
    transfer_report.prepare(output)
    study = Study(sets, config, recipe, runs.rate, output, runs, pick_device(device))
    return study.run(cells, (lambda line: None) if quiet else (lambda line: print(f"{clock()}  {line}", flush=True)))
