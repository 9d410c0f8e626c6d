"""Benches compare inside one run: every candidate takes turns with the others and with a matrix product.

Absolute times of a shared or throttled machine mean little; ratios of neighbours in time, and shares of the
matrix-multiply rate measured between them, carry over. Both go into pytest-benchmark's extra_info.
"""

import os
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from ussfast.profiling.profile import Gemm, machine, take_turns

# On a machine that is busy otherwise, BENCH_THREADS=1 gives steadier ratios: no thread waits for another.
torch.set_num_threads(int(os.environ.get("BENCH_THREADS") or torch.get_num_threads()))

HERE = Path(__file__).parent
ROUNDS = 15


def pytest_collection_modifyitems(config, items):
    """Benches marked slow run only when -m says so."""
    if config.option.markexpr:
        return
    slow = [item for item in items if HERE in item.path.parents and item.get_closest_marker("slow")]
    if slow:
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture
def surroundings() -> dict[str, Any]:
    """What a figure depends on besides the code."""
    return {
        "machine": machine(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
    }


@pytest.fixture
def interleaved(benchmark, surroundings):
    """interleaved(candidates, subject, flop=0, rounds=ROUNDS): times callables in turn, then `subject` by benchmark.

    candidates: name -> callable without arguments; one of them is the subject, the others what it is held
        against. All must have been checked for equal results by the bench.
    flop: floating-point operations of one call, for the share of the matrix-multiply rate; 0 leaves it out.
    rounds: fewer for slow candidates, at least 5.

    extra_info receives machine, torch, threads, load (of the machine before the run), gemm_gflops (median),
    median_us of every candidate and, per round and then as median, subject_speedup over each other candidate.
    """

    def run(
        candidates: dict[str, Callable[[], Any]], subject: str, flop: float = 0.0, rounds: int = ROUNDS
    ) -> None:
        yardstick = Gemm(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
        found = take_turns({"gemm": yardstick, **candidates}, rounds)
        with torch.inference_mode():
            if rounds == ROUNDS:
                benchmark(candidates[subject])
            else:  # as slow as this, one more run is enough for pytest-benchmark's own table
                benchmark.pedantic(candidates[subject], rounds=1, iterations=1)
        median = {name: statistics.median(r[name] for r in found) for name in found[0]}
        gemm = yardstick.flop / median["gemm"]
        benchmark.extra_info |= surroundings | {
            "gemm_gflops": round(gemm / 1e9, 1),
            "median_us": {name: round(median[name] * 1e6, 1) for name in candidates},
            "subject_speedup": {
                name: round(statistics.median(r[name] / r[subject] for r in found), 2)
                for name in candidates
                if name != subject
            },
        }
        if flop:
            benchmark.extra_info["gemm_share"] = round(flop / median[subject] / gemm, 4)

    return run


TOLERANCE = {"float32": 1e-5, "bfloat16": 2e-2}  # distance from the reference in float32 over its norm


@pytest.fixture
def as_trained(benchmark, interleaved):
    """Runs an op that trains on the CPU, in some precision of its products, against its reference in float32.

    arguments: all but the precision. backward: with gradients. fixed: places of tensors that nothing learns.
    """

    def run(
        spec: Any, arguments: Sequence[Any], precision: str, case: str, backward: bool, fixed: Sequence[int] = ()
    ) -> None:
        leaves = [a for i, a in enumerate(arguments) if torch.is_tensor(a) and i not in fixed]

        def call(function: Callable[..., Any], precision: str) -> Sequence[torch.Tensor]:
            with torch.inference_mode(not backward), torch.set_grad_enabled(backward):
                out = function(*arguments, precision)
                results = (out,) if torch.is_tensor(out) else out
                return torch.autograd.grad(results[0], leaves, grad) if backward else results

        if backward:
            with torch.no_grad():
                out = spec.reference(*arguments, "float32")
            grad = torch.randn_like(out if torch.is_tensor(out) else out[0])
            for leaf in leaves:
                leaf.requires_grad_()
        pairs = zip(call(spec, precision), call(spec.reference, "float32"), strict=True)
        assert all((a - b).norm() <= TOLERANCE[precision] * b.norm() for a, b in pairs)
        benchmark.group = f"{spec.name}/{'forward and backward' if backward else 'forward'}/{case}"
        interleaved(
            {"native": lambda: call(spec, precision), "reference": lambda: call(spec.reference, "float32")},
            subject="native",
            flop=(3 if backward else 1) * spec.flop(*arguments, precision),
            rounds=9,
        )

    return run


@pytest.fixture
def by_inputs(benchmark, interleaved):
    """Runs an op whose weights stay as they are, with the gradients of its first arguments, against autograd of its
    reference.

    inputs: how many arguments have a gradient. backward_alone: without the forward pass. flop: of what is timed.
    """

    def run(
        spec: Any, arguments: Sequence[Any], inputs: int, case: str, backward_alone: bool, flop: float = 0.0
    ) -> None:
        leaves = [leaf.requires_grad_() for leaf in arguments[:inputs]]
        with torch.enable_grad():
            kept = {function: function(*arguments) for function in (spec, spec.reference)}
        grad = torch.randn_like(kept[spec])

        def call(function: Callable[..., Any]) -> Sequence[torch.Tensor]:
            with torch.inference_mode(False), torch.enable_grad():
                out = kept[function] if backward_alone else function(*arguments)
                return torch.autograd.grad(out, leaves, grad, retain_graph=backward_alone)

        pairs = zip(call(spec), call(spec.reference), strict=True)
        assert all((a - b).norm() <= TOLERANCE["float32"] * b.norm() for a, b in pairs)
        benchmark.group = f"{spec.name}/{'backward' if backward_alone else 'forward and backward'}/{case}"
        interleaved(
            {"native": lambda: call(spec), "reference": lambda: call(spec.reference)},
            subject="native",
            flop=flop,
            rounds=5,
        )

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
