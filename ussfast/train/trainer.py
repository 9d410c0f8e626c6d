"""A small trainer: one device, dynamic mixing, checkpoints that resume where they stopped."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ussfast.errors import InputError
from ussfast.evaluate.dev import TASKS, DevMixture
from ussfast.evaluate.metrics import improvements
from ussfast.models import SpectralModel, build
from ussfast.ops import use_reference
from ussfast.separation import make_folders
from ussfast.train import checkpoints
from ussfast.train.data import AudioPool
from ussfast.train.losses import prompt_loss
from ussfast.train.mixing import Batch, Mixer
from ussfast.train.recipe import Recipe


def prompt_rows(model: SpectralModel, prompts: list[tuple[str, ...]]) -> torch.Tensor:
    """[batch, sources, dim] class prompts, one row of names per item."""
    rows = [model.prompt_vectors(names) for names in prompts]
    return torch.stack([row for row in rows if row is not None])


class Trainer:
    """Trains `recipe` in `directory`, going on from its newest checkpoint if there is one.

    Args:
        recipe: model, optimiser and mixing.
        pool: training items at the model's rate, on the training device.
        dev: development mixtures to validate on; may be empty.
        directory: run folder; step-NNNNNN checkpoints, best/ (highest mean SI-SDR improvement) and log.jsonl.
    """

    def __init__(self, recipe: Recipe, pool: AudioPool, dev: list[DevMixture], directory: Path):
        self.recipe, self.dev, self.directory = recipe, dev, directory
        self.device = pool.samples.device
        torch.manual_seed(recipe.run.seed)
        self.model = build(recipe.model).to(self.device)
        if not self.model.prompt_names:
            raise InputError(f"recipe {recipe.name}: only models with prompts can be trained so far")
        optim = recipe.optim
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), lr=optim.lr, weight_decay=optim.weight_decay, eps=1e-8, fused=True
        )
        self.mixer = Mixer(pool, recipe.mix, np.random.default_rng(recipe.run.seed))
        self.step, self.seconds, self.best = 0, 0.0, -math.inf
        make_folders([directory / "log.jsonl"])
        newest = checkpoints.newest(directory)
        if newest:
            self._restore(newest)
        if recipe.run.compile:
            # Block by block: every block of a stack has the same shapes, so few graphs are compiled.
            torch._dynamo.config.cache_size_limit = 64
            for name, module in self.model.named_modules():
                if name.rpartition(".")[0].endswith("blocks"):
                    module.compile(dynamic=False)

    def learning_rate(self, step: int) -> float:
        """Linear warm-up from 0, then a cosine to 0 at the last step."""
        optim = self.recipe.optim
        if step < optim.warmup:
            return optim.lr * step / optim.warmup
        done = min(1.0, (step - optim.warmup) / max(1, optim.steps - optim.warmup))
        return optim.lr * 0.5 * (1 + math.cos(math.pi * done))

    def train_step(self, batch: Batch) -> float:
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate(self.step)
        self.model.train()
        # The plain PyTorch path: differentiable without recomputation, and fused by the compiler.
        with use_reference():
            estimates = self.model.separate(batch.mixture, prompt_rows(self.model, batch.prompts))
            loss = prompt_loss(estimates, batch.references, batch.prompts).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optim.clip)
        if torch.isfinite(norm):
            self.optimizer.step()
        self.step += 1
        return float(loss.detach())

    def run(
        self, max_minutes: float | None = None, report: Callable[[dict[str, Any]], None] = lambda row: None
    ) -> bool:
        """Trains until the recipe's last step or the time is up; both end with a checkpoint. True when finished."""
        run, begun = self.recipe.run, time.monotonic()
        losses: list[float] = []
        mark = begun
        while self.step < self.recipe.optim.steps:
            if max_minutes is not None and time.monotonic() - begun > 60 * max_minutes:
                break
            losses.append(self.train_step(self.mixer.batch()))
            now = time.monotonic()
            self.seconds += now - mark
            mark = now
            if self.step % run.log_every == 0:
                self._log({"step": self.step, "loss": float(np.mean(losses)), "hours": self.seconds / 3600}, report)
                losses.clear()
            if self.dev and self.step % run.validate_every == 0:
                self._validated(report)
            if self.step % run.checkpoint_every == 0:
                self._save()
            mark = time.monotonic() if self.step % run.validate_every == 0 else mark
        self._save()
        return self.step >= self.recipe.optim.steps

    def validate(self) -> dict[str, float]:
        """Mean SI-SDR improvement in dB per task, over the task's sources."""
        # Eager: other lengths than in training would have to be compiled first.
        with torch.compiler.set_stance("force_eager"):
            return validate(self.model, self.dev, self.device)

    def _validated(self, report: Callable[[dict[str, Any]], None]) -> None:
        scores = self.validate()
        mean = float(np.mean(list(scores.values())))
        self._log({"step": self.step, "si_sdr_improvement": scores, "mean": mean}, report)
        if mean > self.best:
            self.best = mean
            checkpoints.save_weights(self.directory / "best", self.recipe, self.model.state_dict(), self._facts())

    def _facts(self) -> dict[str, Any]:
        return {"step": self.step, "seconds": self.seconds, "best": self.best if math.isfinite(self.best) else None}

    def _log(self, row: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> None:
        with open(self.directory / "log.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")
        report(row)

    def _save(self) -> None:
        checkpoints.save(
            self.directory,
            self.recipe,
            self.model.state_dict(),
            self.optimizer.state_dict(),
            self._facts() | {"rng": self.mixer.rng.bit_generator.state},
        )

    def _restore(self, path: Path) -> None:
        weights, optimizer, facts = checkpoints.load(path, self.recipe)
        self.model.load_state_dict(weights)
        self.optimizer.load_state_dict(optimizer)
        self.step, self.seconds = facts["step"], facts["seconds"]
        self.best = facts["best"] if facts["best"] is not None else -math.inf
        self.mixer.rng.bit_generator.state = facts["rng"]


@torch.inference_mode()
def validate(model: SpectralModel, dev: list[DevMixture], device: torch.device | str = "cpu") -> dict[str, float]:
    """Mean SI-SDR improvement in dB per task, over all sources of its mixtures."""
    model.eval()
    scores: dict[str, list[float]] = {task: [] for task in TASKS}
    for item in dev:
        mixture = torch.from_numpy(item.mixture)[None].to(device)
        estimates = model.separate(mixture, prompt_rows(model, [item.prompts]))[0].float().cpu().numpy()
        found = improvements(item.mixture, estimates, item.references, item.prompts)
        scores[item.task] += [value for value in found if value is not None]
    return {task: float(np.mean(values)) for task, values in scores.items() if values}
