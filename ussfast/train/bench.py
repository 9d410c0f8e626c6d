"""How fast a recipe trains on this CPU: kernels for training against plain PyTorch, taking turns in one run."""

import dataclasses
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ussfast._ext import cpu_isa
from ussfast.engine.threads import check_threads
from ussfast.errors import InputError
from ussfast.models import build
from ussfast.ops import use_reference
from ussfast.profiling.flops import model_flop
from ussfast.profiling.profile import Gemm, machine
from ussfast.train.mixing import Batch
from ussfast.train.objective import Objective
from ussfast.train.optimizers import Optimizer
from ussfast.train.recipe import Recipe, load_recipe


@dataclass(frozen=True)
class Way:
    """One way to train. seconds: CPU time of a step (least of all rounds). audio: seconds of mixtures per CPU second.
    rate: operations per CPU second, a backward pass counted as two forward ones; share: of float32 matrix products.
    """

    name: str
    seconds: float
    audio: float
    rate: float
    share: float
    speedup: float


def _cpu(call: Callable[[], object]) -> float:
    begun = time.process_time()
    call()
    return time.process_time() - begun


def batch_of(recipe: Recipe, mixtures: int, seed: int = 0) -> Batch:
    """Mixtures of noise: as many as given, of three sources of the model's prompts."""
    names = recipe.model.prompts[:3]
    generator = torch.Generator().manual_seed(seed)
    samples = round(recipe.mix.seconds * recipe.model.sample_rate)
    references = 0.1 * torch.randn(mixtures, len(names), samples, generator=generator)
    absent = torch.zeros(mixtures, len(names), dtype=torch.bool)
    return Batch(references.sum(1), references, [names] * mixtures, absent)


def ways(recipe: Recipe, mixtures: int = 4, rounds: int = 5) -> list[Way]:
    """Whole steps (forward, loss, backward, optimiser) of each way; the first is plain PyTorch in float32.

    CPU time counts, of all threads together.
    Raises:
        InputError: rounds or mixtures below 1; a model without prompts.
    """
    if rounds < 1 or mixtures < 1:
        raise InputError(f"rounds and mixtures must be at least 1, got {rounds} and {mixtures}")
    if not getattr(recipe.model, "prompts", ()):
        raise InputError(f"recipe {recipe.name}: only models with prompts can be trained so far")
    torch.manual_seed(recipe.run.seed)
    model = build(recipe.model).train()
    optimizer = Optimizer(model, recipe.optim)
    for group in optimizer.param_groups:
        group["lr"] = 0.0  # every step is the same work on the same weights
    batch = batch_of(recipe, mixtures)

    def step(objective: Objective, eager: bool) -> Callable[[], object]:
        def call() -> None:
            optimizer.zero_grad()
            with use_reference(eager):
                objective(batch).backward()
            optimizer.step()

        return call

    wide, narrow = (Objective(model, recipe.loss, bfloat16=b) for b in (False, True))
    calls: dict[str, Callable[[], object]] = {"PyTorch, float32": step(wide, True)}
    if getattr(model, "native_training", False) and cpu_isa():
        calls["kernels, float32"] = step(wide, False)
        if cpu_isa() == "avx512_bf16":
            calls["kernels, bfloat16"] = step(narrow, False)
    gemm = Gemm(torch.device("cpu"))
    calls["gemm"] = gemm
    for call in calls.values():
        call()
    turns = [{name: _cpu(call) for name, call in calls.items()} for _ in range(rounds)]
    least = {name: min(turn[name] for turn in turns) for name in turns[0]}
    flop = 3 * model_flop(recipe.model, batch.mixture.shape[1], len(batch.prompts[0]), mixtures)
    seconds, gemm_rate = mixtures * recipe.mix.seconds, gemm.flop / least["gemm"]
    first = least["PyTorch, float32"]
    return [
        Way(name, s, seconds / s, flop / s, flop / s / gemm_rate, first / s)
        for name, s in least.items()
        if name != "gemm"
    ]


def table(rows: list[Way]) -> str:
    """Markdown."""
    head = "| way | CPU s per step | audio s per CPU s | GFLOP/s | share of torch.mm, float32 | speed |"
    return "\n".join(
        [head, "|---|---|---|---|---|---|"]
        + [
            f"| {w.name} | {w.seconds:.3f} | {w.audio:.1f} | {w.rate / 1e9:.1f} | {w.share:.0%} | {w.speedup:.2f} x |"
            for w in rows
        ]
    )


def run_training(recipe: str, rounds: int, threads: int | None, as_json: bool) -> None:
    """Measures whole steps of `recipe` on the CPU, by kernels for training and by plain PyTorch, and prints them."""
    loaded, before = load_recipe(recipe), torch.get_num_threads()
    torch.set_num_threads(before if threads is None else check_threads(threads))
    try:
        rows = ways(loaded, rounds=rounds)
        facts = {"recipe": loaded.name, "machine": machine(torch.device("cpu")), "torch": torch.__version__}
        facts |= {"threads": str(torch.get_num_threads())}
    finally:
        torch.set_num_threads(before)
    if as_json:
        print(json.dumps(facts | {"steps": [dataclasses.asdict(row) for row in rows]}, indent=1))
        return
    print(f"{loaded.name}: 4 mixtures of {loaded.mix.seconds:g} s, 3 sources each")
    print(f"{facts['machine']}, torch {facts['torch']}, {facts['threads']} threads")
    print(f"Least CPU time of {rounds} steps, all threads together:")
    print(table(rows))
