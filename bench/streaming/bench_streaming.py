"""Live streams hop by hop: time of a step and its tail, real-time factor, streams together.

    BENCH_THREADS=1 python -m pytest bench/streaming -q --benchmark-json=bench/results/streaming.json
    BENCH_HOPS=5000 python -m pytest bench/streaming -q -k session     # a longer look at the tail
    BENCH_MODEL=training/default python -m pytest bench/streaming -q   # another causal model: a name or a directory
"""

import os
import statistics
import time
from typing import Any

import numpy as np
import pytest
import torch

import ussfast
from ussfast.profiling.profile import Gemm

HOPS = int(os.environ.get("BENCH_HOPS", "1500"))
MODEL = os.environ.get("BENCH_MODEL", "default")
WARM_UP = 20
PROMPTS = ("speech", "sfxbg")
# Waveformer, the nearest published streaming separator, needs this many times real time on one core in PyTorch.
WAVEFORMER = 1.5


def noise(samples: int, rows: int = 1) -> np.ndarray:
    swell = 0.1 * (1.2 + np.sin(np.arange(samples) / 5000))
    return (swell * np.random.default_rng(0).standard_normal((rows, samples))).astype(np.float32)


class Timed:
    """Seconds of every call, with matrix products between some of them: clocks wander."""

    def __init__(self, per_gemm: int):
        self.gemm, self.per_gemm = Gemm(torch.device("cpu")), per_gemm
        self.calls: list[float] = []
        self.cpu: list[float] = []  # the same in time of the CPU: without what other processes took of it
        self.gemms: list[float] = []

    def __call__(self, call: Any, *arguments: Any) -> None:
        if len(self.calls) % self.per_gemm == 0:
            begun = time.perf_counter()
            self.gemm()
            self.gemms.append(time.perf_counter() - begun)
        begun, cpu = time.perf_counter(), time.process_time()
        call(*arguments)
        self.cpu.append(time.process_time() - cpu)
        self.calls.append(time.perf_counter() - begun)

    def facts(self, audio_seconds: float) -> dict[str, Any]:
        """What a call of so much audio costs."""
        rate = self.gemm.flop / statistics.median(self.gemms)
        factor = statistics.mean(self.calls) / audio_seconds
        places = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
        wall, cpu = (
            {name: round(1e3 * float(np.quantile(times, q)), 3) for name, q in places.items()}
            for times in (self.calls, self.cpu)
        )
        return {
            "model": MODEL,
            "hop_ms": round(1000 * audio_seconds, 3),
            "step_ms": wall,
            "step_cpu_ms": cpu,
            "p99_of_hop": round(wall["p99"] / 1e3 / audio_seconds, 3),
            "rtf": round(factor, 4),
            "rtf_cpu": round(statistics.mean(self.cpu) / audio_seconds, 4),
            "steps": len(self.calls),
            "gemm_gflops": round(rate / 1e9, 1),
            # Time as matrix products of this machine: what another machine's rate can be divided into.
            "gemm_gflop_per_second_of_audio": round(factor * rate / 1e9, 2),
            "times_less_than_waveformer": round(WAVEFORMER / factor, 1),
        }


def separator(backend: str = "native", dtype: str = "auto") -> ussfast.Separator:
    return ussfast.Separator(MODEL, PROMPTS, device="cpu", backend=backend, dtype=dtype)


def hop_of(session: ussfast.streaming.session.Session) -> int:
    """Samples at the model's rate."""
    return round(session.hop_seconds * session.sample_rate)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def measure(benchmark, surroundings, push: Any, hop: int, rate: int, hops: int) -> None:
    audio = noise(hop * (hops + WARM_UP))
    for number in range(WARM_UP):
        push(audio[:, number * hop : (number + 1) * hop])
    timed = Timed(per_gemm=max(1, hops // 20))
    for number in range(WARM_UP, WARM_UP + hops):
        timed(push, audio[:, number * hop : (number + 1) * hop])
    benchmark.pedantic(push, (audio[:, :hop],), rounds=10)
    benchmark.extra_info |= surroundings | timed.facts(hop / rate)


@pytest.mark.parametrize("rate", [32000, 48000])
@pytest.mark.parametrize("prompts", [1, 2, 4])
def bench_session(benchmark, surroundings, prompts, rate):
    session = separator().session(rate, prompts=("speech", "sfxbg", "musicbg", "sfx")[:prompts], channels=1)
    measure(benchmark, surroundings, session.push, hop_of(session), rate, HOPS)
    benchmark.extra_info |= {"prompts": prompts, "rate": rate, "latency_ms": round(1000 * session.latency, 2)}


def bench_session_float32(benchmark, surroundings):
    """Where the CPU multiplies bfloat16, all others do."""
    sep = separator(dtype="float32")
    session = sep.session(sep.sample_rate, channels=1)
    measure(benchmark, surroundings, session.push, hop_of(session), session.sample_rate, HOPS)


def bench_session_reference(benchmark, surroundings):
    sep = separator("reference")
    session = sep.session(sep.sample_rate, channels=1)
    measure(benchmark, surroundings, session.push, hop_of(session), session.sample_rate, HOPS // 10)


def bench_change_of_prompts(benchmark, surroundings):
    """set_prompts in a running stream, prompts never asked for before, against one step."""
    sep = separator()
    session = sep.session(sep.sample_rate, channels=1)
    audio = noise(hop_of(session) * WARM_UP)
    for hop in np.split(audio, WARM_UP, 1):
        session.push(hop)
    names = sorted(sep.prompts)
    pairs = [(a, b) for a in names for b in names if a < b]
    changes, steps = Timed(10), Timed(10)
    for pair in pairs:
        changes(session.set_prompts, pair)
        steps(session.push, audio[:, : hop_of(session)])
    benchmark.pedantic(session.set_prompts, (pairs[0],), rounds=10)
    new, step = statistics.median(changes.calls), statistics.median(steps.calls)
    benchmark.extra_info |= surroundings | {
        "change_ms": round(1e3 * new, 3), "step_ms": round(1e3 * step, 3), "change_per_step": round(new / step, 2)
    }  # fmt: skip


@pytest.mark.parametrize("streams", [1, 2, 4, 8, 16])
def bench_pool(benchmark, surroundings, streams):
    sep = separator()
    pool = sep.pool(streams, sep.sample_rate)
    joined = [pool.join() for _ in range(streams)]

    def push(hop: np.ndarray) -> None:
        pool.push(dict.fromkeys(joined, hop))

    session = pool[joined[0]]
    measure(benchmark, surroundings, push, hop_of(session), session.sample_rate, max(100, HOPS // streams))
    rtf = benchmark.extra_info["rtf_cpu"]
    del benchmark.extra_info["times_less_than_waveformer"]  # that is about one stream
    benchmark.extra_info |= {"streams": streams, "streams_per_core": round(streams / rtf, 1)}


@pytest.mark.slow  # a window of TUSS medium takes seconds
@pytest.mark.parametrize("latency", [1.0, 2.0])
def bench_sliding_tuss_medium(benchmark, surroundings, latency):
    sep = ussfast.Separator.from_preset("tuss-medium", ("speech", "sfx"))
    session = sep.session(sep.sample_rate, channels=1, latency=latency)
    hop = round(session.hop_seconds * sep.sample_rate)
    # Windows grow at first: those that count are as long as they get.
    for part in np.array_split(noise(round(sep.policy.segment * sep.sample_rate)), 4, 1):
        session.push(part)
    timed = Timed(per_gemm=1)
    for number in range(4):
        timed(session.push, noise(hop) * (1 + number))
    benchmark.pedantic(session.push, (noise(hop),), rounds=1)
    facts = timed.facts(session.hop_seconds)
    del facts["times_less_than_waveformer"]
    benchmark.extra_info |= surroundings | facts | {"latency_ms": round(1000 * session.latency)}
