"""Whole models on one window of noise: each way to run them in turn with the others and with a matrix product.

    python -m pytest bench/models -q --benchmark-json=bench/results/models.json
    python -m pytest bench/models -q -m "slow or not slow"          # with torch.compile
    BENCH_SECONDS=1 python -m pytest bench/models -q -k default     # a quick look
"""

import functools
import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import candidates
import numpy as np
import pytest
import torch

import ussfast
from ussfast.profiling.profile import Gemm, take_turns

ROUNDS = 5
FRESH = Path(__file__).parents[1] / "fresh.py"
SLOW = (pytest.mark.slow,)  # compiling takes minutes
CASES = [
    pytest.param(model, backend, id=f"{model}-{backend}", marks=SLOW if backend == "torch.compile" else ())
    for model in candidates.MODELS
    for backend in candidates.SETTINGS
]


@dataclass
class Contest:
    """One model, all its selected backends in turn, with a matrix product before and after each: clocks wander.

    runs: by backend. found: seconds by call, per round. difference: from the reference, as a share of its peak.
    """

    runs: dict[str, Any]
    flop: int
    gemm_flop: int
    found: list[dict[str, float]]
    difference: dict[str, float]

    def median(self, name: str) -> float:
        return statistics.median(r[name] for r in self.found)

    def gemm_rates(self, name: str) -> list[float]:
        """Per round, operations per second of the matrix products next to a backend's run."""
        following = [*self.runs, "end"][list(self.runs).index(name) + 1]
        return [2 * self.gemm_flop / (r[f"gemm, {name}"] + r[f"gemm, {following}"]) for r in self.found]


# One at a time is kept: cases come model by model, and large ones take room.
@functools.lru_cache(maxsize=1)
def hold(model: str, backends: tuple[str, ...]) -> Contest:
    started = {name: candidates.start(candidates.load(model), name) for name in backends}
    results = {name: run().stems for name, (_, run, _) in started.items()}
    truth = results["reference"]
    peak = np.abs(truth).max()
    difference = {name: float(np.abs(stems - truth).max() / peak) for name, stems in results.items()}
    for name, share in difference.items():  # never time a wrong result
        assert np.isfinite(results[name]).all() and share <= candidates.TOLERANCE.get(name, np.inf), (name, share)
    separator, _, flop = started["reference"]
    gemm = Gemm(separator.engine.device, products=10)
    runs = {name: run for name, (_, run, _) in started.items()}
    calls: dict[str, Any] = {}
    for name, run in runs.items():
        calls |= {f"gemm, {name}": gemm, name: run}
    return Contest(runs, flop, gemm.flop, take_turns(calls | {"gemm, end": gemm}, ROUNDS), difference)


@pytest.fixture
def contest(request, model) -> Contest:
    """The contest of this model's backends that were selected and can run; the reference always takes part."""
    chosen = {
        item.callspec.params["backend"]
        for item in request.session.items
        if item.originalname == "bench_model" and item.callspec.params["model"] == model
    } | {"reference"}
    return hold(model, tuple(n for n in candidates.SETTINGS if n in chosen and not candidates.why_not(n, model)))


def fresh(model: str, backend: str) -> dict[str, float]:
    """Memory and time to the first result, from a process of its own."""
    settings = {
        "BENCH_THREADS": str(torch.get_num_threads()),
        "BENCH_SECONDS": str(candidates.SECONDS),
        "PYTHONPATH": str(Path(ussfast.__file__).parents[1]),  # the ussfast that is measured here
    }
    command = [sys.executable, str(FRESH), model, backend]
    done = subprocess.run(command, env=os.environ | settings, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def possible(backend, model):
    if reason := candidates.why_not(backend, model):
        pytest.skip(reason)


@pytest.mark.parametrize("model, backend", CASES)
def bench_model(benchmark, possible, surroundings, contest, model, backend):
    seconds, gemm = contest.median(backend), contest.gemm_rates(backend)
    benchmark.group = model
    benchmark.extra_info |= surroundings | {
        "model": model,
        "backend": backend,
        "seconds": candidates.SECONDS,
        "run_seconds": round(seconds, 4),
        "rtf": round(seconds / candidates.SECONDS, 4),
        "gflop": round(contest.flop / 1e9, 2),
        "gflops": round(contest.flop / seconds / 1e9, 1),
        "gemm_gflops": round(statistics.median(gemm) / 1e9, 1),
        "gemm_share": round(
            statistics.median(contest.flop / r[backend] / rate for r, rate in zip(contest.found, gemm, strict=True)), 4
        ),
        "subject_speedup": {
            name: round(statistics.median(r[name] / r[backend] for r in contest.found), 2)
            for name in contest.runs
            if name != backend
        },
        "difference": contest.difference[backend],
    } | fresh(model, backend)
    # The figures are there; this fills pytest-benchmark's own table.
    benchmark.pedantic(contest.runs[backend], rounds=1, iterations=1)


# Threads of a CPU are compared; a GPU would hide them.
@pytest.mark.skipif((os.cpu_count() or 1) < 2 or torch.cuda.is_available(), reason="needs two CPU cores, and no GPU")
def bench_threads(benchmark, interleaved):
    """One thread against two, of the model and of a matrix product, which no model scales better than."""
    if reason := candidates.why_not("native"):
        pytest.skip(reason)
    _, run, flop = candidates.start(candidates.load("tuss-medium"), "native")
    gemm, before = Gemm(torch.device("cpu"), products=10), torch.get_num_threads()

    def on(threads, call):
        def switched():
            torch.set_num_threads(threads)
            call()

        return switched

    calls = {"1 thread": on(1, run), "gemm, 1 thread": on(1, gemm), "gemm, 2 threads": on(2, gemm)}
    try:
        interleaved({"2 threads": on(2, run), **calls}, subject="2 threads", flop=flop, rounds=ROUNDS)
    finally:
        torch.set_num_threads(before)
    median = benchmark.extra_info["median_us"]
    benchmark.extra_info |= {
        "threads": "1 and 2",
        "scaling": round(median["1 thread"] / median["2 threads"], 2),
        "gemm_scaling": round(median["gemm, 1 thread"] / median["gemm, 2 threads"], 2),
    }
