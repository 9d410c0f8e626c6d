"""Live streams hop by hop: time of a step and its tail, real-time factor, streams together.

    BENCH_THREADS=1 python -m pytest bench/streaming -q --benchmark-json=bench/results/streaming.json
    BENCH_HOPS=5000 python -m pytest bench/streaming -q -k default     # a longer look at the tail
"""

import os
import statistics
import time
from typing import Any

import numpy as np
import pytest
import torch

import ussfast
from ussfast.profiling import Gemm

HOPS = int(os.environ.get("BENCH_HOPS", "1500"))
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
        self.gemms: list[float] = []

    def __call__(self, call: Any, *arguments: Any) -> None:
        if len(self.calls) % self.per_gemm == 0:
            begun = time.perf_counter()
            self.gemm()
            self.gemms.append(time.perf_counter() - begun)
        begun = time.perf_counter()
        call(*arguments)
        self.calls.append(time.perf_counter() - begun)

    def facts(self, audio_seconds: float) -> dict[str, Any]:
        """What a call of so much audio costs."""
        rate = self.gemm.flop / statistics.median(self.gemms)
        factor = statistics.mean(self.calls) / audio_seconds
        p50, p99, p999 = (float(np.quantile(self.calls, q)) for q in (0.5, 0.99, 0.999))
        return {
            "hop_ms": round(1000 * audio_seconds, 3),
            "step_ms": {"p50": round(1e3 * p50, 3), "p99": round(1e3 * p99, 3), "p99.9": round(1e3 * p999, 3)},
            "p99_of_hop": round(p99 / audio_seconds, 3),
            "rtf": round(factor, 4),
            "steps": len(self.calls),
            "gemm_gflops": round(rate / 1e9, 1),
            # Time as matrix products of this machine: what another machine's rate can be divided into.
            "gemm_gflop_per_second_of_audio": round(factor * rate / 1e9, 2),
            "times_less_than_waveformer": round(WAVEFORMER / factor, 1),
        }


def separator(backend: str) -> ussfast.Separator:
    return ussfast.Separator("default", PROMPTS, backend=backend)


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
def bench_default(benchmark, surroundings, prompts, rate):
    session = separator("native").session(rate, prompts=("speech", "sfxbg", "musicbg", "sfx")[:prompts], channels=1)
    hop = round(session.hop_seconds * rate)
    measure(benchmark, surroundings, session.push, hop, rate, HOPS)
    benchmark.extra_info |= {"prompts": prompts, "rate": rate, "latency_ms": round(1000 * session.latency, 2)}


def bench_default_reference(benchmark, surroundings):
    session = separator("reference").session(channels=1)
    measure(benchmark, surroundings, session.push, round(session.hop_seconds * 32000), 32000, HOPS // 10)


def bench_change_of_prompts(benchmark, surroundings):
    """set_prompts in a running stream, prompts never asked for before, against one step."""
    sep = separator("native")
    session = sep.session(channels=1)
    audio = noise(640 * WARM_UP)
    for hop in np.split(audio, WARM_UP, 1):
        session.push(hop)
    names = sorted(sep.prompts)
    pairs = [(a, b) for a in names for b in names if a < b]
    changes, steps = Timed(10), Timed(10)
    for pair in pairs:
        changes(session.set_prompts, pair)
        steps(session.push, audio[:, :640])
    benchmark.pedantic(session.set_prompts, (pairs[0],), rounds=10)
    new, step = statistics.median(changes.calls), statistics.median(steps.calls)
    benchmark.extra_info |= surroundings | {
        "change_ms": round(1e3 * new, 3), "step_ms": round(1e3 * step, 3), "change_per_step": round(new / step, 2)
    }  # fmt: skip


@pytest.mark.parametrize("streams", [1, 2, 4, 8])
def bench_pool(benchmark, surroundings, streams):
    pool = separator("native").pool(streams)
    joined = [pool.join() for _ in range(streams)]

    def push(hop: np.ndarray) -> None:
        pool.push(dict.fromkeys(joined, hop))

    measure(benchmark, surroundings, push, 640, 32000, max(100, HOPS // streams))
    rtf = benchmark.extra_info["rtf"]
    del benchmark.extra_info["times_less_than_waveformer"]  # that is about one stream
    benchmark.extra_info |= {"streams": streams, "streams_per_core": round(streams / rtf, 1)}


@pytest.mark.slow  # a window of TUSS medium takes seconds
@pytest.mark.parametrize("latency", [1.0, 2.0])
def bench_sliding_tuss_medium(benchmark, surroundings, latency):
    sep = ussfast.Separator.from_preset("tuss-medium", ("speech", "sfx"))
    session = sep.session(channels=1, latency=latency)
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
