"""The trainer of all kinds of work: one or several processes, mean weights, checkpoints that resume bit for bit."""

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ussfast.errors import CheckpointError
from ussfast.separation import make_folders
from ussfast.train import checkpoints, parallel
from ussfast.train.autoclip import AutoClip
from ussfast.train.dev_set import validated_anew
from ussfast.train.ema import Ema
from ussfast.train.folders import first_whole
from ussfast.train.log import Row, RunLog
from ussfast.train.optimizers import Optimizer
from ussfast.train.schedule import Plateau, learning_rate
from ussfast.train.work import Work, begun

if TYPE_CHECKING:
    from accelerate import Accelerator

Report = Callable[[Row], None]


def _silent(row: Row) -> None:
    pass


class Trainer:
    """Does `work` in `directory`, going on from its newest checkpoint if there is one.

    Args:
        work: the recipe, its batches and its validation.
        directory: run folder; step-NNNNNNN checkpoints, best-NNNNNNN (mean weights with the highest means in
            validation), log.jsonl, validation.md and tb/. Only the main process writes there.
        accelerator: of this process, from `parallel.start`; a single process needs none.
        start: model directory whose weights the run begins with, if there is no checkpoint yet.
    Raises:
        InputError: what `work` cannot begin with; weights to start with of another model.
    """

    def __init__(
        self,
        work: Work,
        directory: Path,
        accelerator: "Accelerator | None" = None,
        start: Path | None = None,
    ):
        recipe = work.recipe
        self.work, self.recipe, self.directory = work, recipe, directory
        self.accelerator = accelerator or parallel.start(work.device)
        self.device = work.device
        seed, rank = recipe.run.seed, self.accelerator.process_index
        torch.manual_seed(seed)
        self.notes: list[str] = []  # what is to be said about the folder that the run goes on in
        found = checkpoints.full(directory)
        newest = first_whole(found, lambda path: checkpoints.load(path, recipe), self.notes.append)
        self.passed_over = found[: found.index(newest[0])] if newest else []
        self.model = (work.model() if newest or not start else begun(recipe, start)).to(self.device)
        # The same weights in every process, but batches and dropout of its own.
        torch.manual_seed(int(np.random.SeedSequence((seed, rank)).generate_state(1)[0]))
        work.begin(self.model, np.random.default_rng((seed, rank)))
        self.optimizer = Optimizer(self.model, recipe.optim)
        self.ema = Ema(self.model, recipe.optim.ema)
        percentile = recipe.optim.autoclip_percentile
        self.autoclip = None if percentile is None else AutoClip(percentile)
        self.plateau: Plateau | None = None
        if recipe.optim.schedule == "plateau":
            self.plateau = Plateau(recipe.optim.plateau_window, recipe.optim.plateau_patience)
        self.step, self.seconds = 0, 0.0
        self.kept: list[tuple[int, float]] = []  # step and mean of the best validated weights
        self.last: Row = {}  # facts of the last step
        self.dev_set = work.dev_set
        make_folders([directory / "log.jsonl"])
        if newest:
            self._restore(*newest)
        if recipe.run.compile:
            # Block by block: every block of a stack has the same shapes, so few graphs are compiled.
            torch._dynamo.config.cache_size_limit = 64
            for name, module in self.model.named_modules():
                if name.rpartition(".")[0].endswith("blocks"):
                    module.compile(dynamic=False)
        self.objective = self.accelerator.prepare_model(work.objective(self.model), device_placement=False)

    @property
    def best(self) -> float:
        """Highest mean so far."""
        return self.kept[0][1] if self.kept else -math.inf

    def learning_rate(self, step: int) -> float:
        return learning_rate(self.recipe.optim, step) * (self.plateau.factor if self.plateau else 1.0)

    def train_step(self, *batches: Any) -> float:
        """One step of the optimiser on the mean gradient of the batches; returns their mean loss in this process."""
        rate = self.learning_rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.work.mode(self.model)
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self.device)
        for number, batch in enumerate(batches):
            # Gradients travel between processes once per step, with the last batch.
            waits = number < len(batches) - 1
            with self.accelerator.no_sync(self.objective) if waits else nullcontext():
                loss = self.objective(batch) / len(batches)
                loss.backward()
            total += loss.detach()
        used = [p for p in self.model.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in used if p.grad is not None])
        # The only time that the host waits for the device. All processes have the same norm.
        value, length = torch.stack((total, norm)).tolist()
        clip = math.nan
        if math.isfinite(length):
            clip = self.autoclip.threshold(length) if self.autoclip else self.recipe.optim.clip
            torch.nn.utils.clip_grads_with_norm_(used, clip, norm)
            self.optimizer.step()
            self.ema.update(self.step)
        self.step += 1
        self.work.stepped(self.model, self.step)
        if self.plateau:  # the same loss in all processes, so that they have one rate
            self.plateau.update(float(np.mean(parallel.everyones(self.accelerator, value))))
        self.last = {"loss": value, "grad_norm": length, "clip": clip, "lr": rate}
        return value

    def run(
        self, max_minutes: float | None = None, report: Report = _silent, each_step: Report = _silent
    ) -> bool:
        """Trains until the recipe's last step or the time is up; both end with a checkpoint. True when finished.

        Args:
            report: gets every row of the log, in the main process.
            each_step: gets step, loss, lr and mixtures per second after every step, in the main process.
        """
        run, begun = self.recipe.run, time.monotonic()
        main = self.accelerator.is_main_process
        log = RunLog(self.directory, self.step, run.tensorboard) if main else None
        rows: list[Row] = []

        def write(row: Row) -> None:
            if log is not None:
                log.write(row)
                report(row)

        try:
            while self.step < self.recipe.optim.steps:
                late = max_minutes is not None and time.monotonic() - begun > 60 * max_minutes
                if max_minutes is not None and parallel.mains(self.accelerator, late):
                    break
                mark = time.monotonic()
                batches = [self.work.batch() for _ in range(self.recipe.optim.accumulate)]
                self.train_step(*batches)
                took = time.monotonic() - mark
                self.seconds += took
                mixtures = sum(map(self.work.size, batches)) * self.accelerator.num_processes
                rows.append(self.last | {"seconds": took, "mixtures": mixtures})
                if main:
                    each_step({"step": self.step, **self.last, "mixtures_per_second": mixtures / took})
                if self.step % run.log_every == 0:
                    write(self._summary(rows))
                    rows.clear()
                if self.work.dev_set and self.step % run.validate_every == 0:
                    write(self.validated())
                if self.step % run.checkpoint_every == 0:
                    self._save()
            if rows:  # a run that is shorter than an interval, or stops within one, leaves its numbers too
                write(self._summary(rows))
            # The last step is often the best one: the learning rate has fallen by then.
            if self.work.dev_set and self.step >= self.recipe.optim.steps and self.step % run.validate_every:
                write(self.validated())
            self._save()
        finally:
            if log is not None:
                log.close()
        return self.step >= self.recipe.optim.steps

    def validate(self) -> dict[str, float]:
        """What the work's validation gives of the mean weights; every process takes a share of it."""
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        # Eager: other lengths than in training would have to be compiled first.
        with torch.compiler.set_stance("force_eager"), self.ema.applied():
            found = self.work.scores(self.model, rank, count)
        return self.work.means([score for own in parallel.everyones(self.accelerator, found) for score in own])

    def validated(self) -> Row:
        """Validates and keeps the weights if they are good enough; the row of the log."""
        scores = self.validate()
        mean = self.work.mean(scores)
        if self.accelerator.is_main_process:
            facts = self._facts() | {"mean": mean}
            weights = self.model.state_dict() | self.ema.state()
            self.kept = checkpoints.save_best(self.directory, self.recipe, weights, facts, self.kept)
        return {"step": self.step, self.work.measure.key: scores, "mean": mean}

    def _summary(self, rows: list[Row]) -> Row:
        """The log's row for some steps: means over those that were finite, losses over all processes."""

        def mean(key: str, of: list[Row] = rows) -> float | None:
            values = [row[key] for row in of if math.isfinite(row[key])]
            return float(np.mean(values)) if values else None

        losses = parallel.everyones(self.accelerator, mean("loss"))
        known = [loss for loss in losses if loss is not None]
        row = {
            "step": self.step,
            "loss": float(np.mean(known)) if known else None,
            "hours": self.seconds / 3600,
            "lr": rows[-1]["lr"],
            "grad_norm": mean("grad_norm"),
            "clip": mean("clip"),
            "mixtures_per_second": sum(r["mixtures"] for r in rows) / sum(r["seconds"] for r in rows),
        }
        skipped = sum(not math.isfinite(r["grad_norm"]) for r in rows)
        return row | {"skipped": skipped} if skipped else row

    def _facts(self) -> dict[str, Any]:
        best = self.best if math.isfinite(self.best) else None
        return {"step": self.step, "seconds": self.seconds, "best": best, "dev": self.dev_set}

    def _save(self) -> None:
        own = {"batches": self.work.rng.bit_generator.state, "torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            own["cuda"] = torch.cuda.get_rng_state(self.device)
        states = parallel.everyones(self.accelerator, own)
        if self.accelerator.is_main_process:
            extra = {f"ema.{name}": value for name, value in self.ema.state().items()}
            if self.autoclip:
                extra["autoclip.history"] = self.autoclip.state()
            if self.plateau:
                extra["plateau.state"] = self.plateau.state()
            extra |= {f"work.{name}": value for name, value in self.work.state().items()}
            for rank, state in enumerate(states):
                extra |= {f"random.{rank}.{kind}": state[kind] for kind in ("torch", "cuda") if kind in state}
            facts = self._facts() | {"rng": [state["batches"] for state in states], "kept": self.kept}
            checkpoints.save(
                self.directory, self.recipe, self.model.state_dict(), self.optimizer.state_dict(), facts, extra,
                self.passed_over,
            )  # fmt: skip
        self.accelerator.wait_for_everyone()

    def _restore(self, path: Path, found: checkpoints.Checkpoint) -> None:
        try:
            self._take(found)
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            if isinstance(error, CheckpointError):
                raise
            raise CheckpointError(f"{path}: no run can go on from it: {' '.join(str(error).split())}") from None

    def _take(self, found: checkpoints.Checkpoint) -> None:
        facts, rank = found.facts, self.accelerator.process_index
        self.model.load_state_dict(found.weights)
        self.optimizer.load_state_dict(found.optimizer)
        self.ema.load(found.extras("ema."))
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.kept = [(step, mean) for step, mean in facts.get("kept", [])]
        history = found.extras("autoclip.").get("history")
        if self.autoclip and history is not None:
            self.autoclip.load(history)
        plateau = found.extras("plateau.").get("state")
        if self.plateau and plateau is not None:
            self.plateau.load(plateau)
        self.work.load(found.extras("work."))
        states = facts["rng"] if isinstance(facts["rng"], list) else [facts["rng"]]
        if rank < len(states):
            self.work.rng.bit_generator.state = states[rank]
        else:  # more processes than before
            self.work.rng = np.random.default_rng((self.recipe.run.seed, rank, self.step))
        random = found.extras(f"random.{rank}.")
        if "torch" in random:
            torch.set_rng_state(random["torch"])
        if "cuda" in random and self.device.type == "cuda":
            torch.cuda.set_rng_state(random["cuda"], self.device)
        before = facts.get("dev")  # not known in checkpoints of earlier versions
        if self.dev_set is None:
            self.dev_set = before
        elif before not in (None, self.dev_set) and self.accelerator.is_main_process:
            self.kept = validated_anew(self.directory, self.work, self.notes.append)
