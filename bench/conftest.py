"""Benches compare inside one run: every candidate takes turns with the others and with a matrix product.

Absolute times of a shared or throttled machine mean little; ratios of neighbours in time, and shares of the
matrix-multiply rate measured between them, carry over. Both go into pytest-benchmark's extra_info.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

# On a machine that is busy otherwise, BENCH_THREADS=1 gives steadier ratios: no thread waits for another.
torch.set_num_threads(int(os.environ.get("BENCH_THREADS") or torch.get_num_threads()))

ROUNDS = 15
_GEMM = 768


def _machine() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


@pytest.fixture
def interleaved(benchmark):
    """interleaved(candidates, subject, flop=0): times callables in turn, then hands `subject` to benchmark.

    candidates: name -> callable without arguments; one of them is the subject, the others what it is held
        against. All must have been checked for equal results by the bench.
    flop: floating-point operations of one call, for the share of the matrix-multiply rate; 0 leaves it out.

    extra_info receives machine, torch, threads, load (of the machine before the run), gemm_gflops (median),
    median_us of every candidate and, per round and then as median, subject_speedup over each other candidate.
    """

    def run(candidates: dict[str, Callable[[], Any]], subject: str, flop: float = 0.0) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        a = torch.randn(_GEMM, _GEMM, device=device)
        calls = {"gemm": lambda: torch.mm(a, a), **candidates}
        load = os.getloadavg()[0]
        with torch.inference_mode():
            for call in calls.values():
                _seconds(call)  # warm up: pages, caches, compilation
            rounds = [{name: _seconds(call) for name, call in calls.items()} for _ in range(ROUNDS)]
            benchmark(candidates[subject])
        median = {name: statistics.median(r[name] for r in rounds) for name in calls}
        gemm = 2 * _GEMM**3 / median["gemm"]
        benchmark.extra_info |= {
            "machine": _machine(),
            "torch": torch.__version__,
            "threads": torch.get_num_threads(),
            "load": round(load, 2),
            "gemm_gflops": round(gemm / 1e9, 1),
            "median_us": {name: round(median[name] * 1e6, 1) for name in candidates},
            "subject_speedup": {
                name: round(statistics.median(r[name] / r[subject] for r in rounds), 2)
                for name in candidates
                if name != subject
            },
        }
        if flop:
            benchmark.extra_info["gemm_share"] = round(flop / median[subject] / gemm, 4)

    return run


def pytest_terminal_summary(terminalreporter, config):
    """The ratios, which pytest-benchmark's own table does not show."""
    session = getattr(config, "_benchmarksession", None)
    for bench in session.benchmarks if session else ():
        info = bench.extra_info
        if "subject_speedup" in info:
            ratios = ", ".join(f"{ratio:.2f}x {name}" for name, ratio in info["subject_speedup"].items())
            share = f", {info['gemm_share']:.1%} of GEMM" if "gemm_share" in info else ""
            terminalreporter.write_line(
                f"{bench.name}: {ratios}{share} (GEMM {info['gemm_gflops']} GFLOP/s, load {info['load']})"
            )
