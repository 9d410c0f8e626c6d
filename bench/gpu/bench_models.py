"""Whole models on a GPU: plain PyTorch, torch.compile and ours in turn; one window; a hop of streams."""

import statistics
import time

import machine
import numpy as np
import pytest
import torch

from ussfast import Separator
from ussfast.profiling.flops import model_flop

SECONDS, BATCH = 6.0, 8
PROMPTS = ("speech", "sfxbg")
# Random weights amplify rounding: bf16 is held against plain PyTorch's own bf16 elsewhere, with trained weights.
TOLERANCE = {"float32": 1e-4, "bf16": 0.1}
HOPS = 300


def runner(name: str, backend: str, dtype: str, compiled: bool = False):
    """Separator, and what computes a batch of waveforms that are on the GPU already."""
    separator = Separator.from_preset(name, PROMPTS, device="cuda", backend=backend, dtype=dtype)
    engine = separator.engine
    vectors = torch.stack([separator.prompts[prompt].vector for prompt in PROMPTS]).cuda()
    work = engine._separate
    if compiled:
        work = torch.compile(engine._separate, mode="max-autotune", dynamic=False)

    def run(audio):
        with engine.computing():
            return engine.graphs.run("bench", work, audio, vectors) if backend == "native" else work(audio, vectors)

    return separator, run


@pytest.mark.parametrize("dtype", ["bf16", "float32"])
@pytest.mark.parametrize("name", ["tuss-medium", "tuss-large"])
def bench_batch(benchmark, name, dtype):
    """Throughput with the audio on the GPU: what kernels and graphs bring, without copies and files."""
    settings = {
        "reference": ("reference", dtype),
        "native": ("native", dtype),
        "torch.compile": ("reference", dtype, True),
    }
    if name == "tuss-large":  # compiling twice the blocks once more would take the minutes that there are
        del settings["torch.compile"]
    runs = {way: runner(name, *how) for way, how in settings.items()}
    separator = runs["native"][0]
    samples = round(SECONDS * separator.sample_rate)
    audio = torch.from_numpy(np.random.default_rng(0).normal(0, 0.1, (BATCH, samples)).astype(np.float32)).cuda()
    outs = {}
    for way, (_, run) in runs.items():
        for _ in range(3):  # loads, tunes, records
            outs[way] = run(audio)
    truth = runner(name, "reference", "float32")[1](audio)
    peak = truth.abs().max()
    difference = {way: ((out - truth).abs().max() / peak).item() for way, out in outs.items()}
    assert difference["native"] <= max(TOLERANCE[dtype], 2 * difference["reference"]), difference
    found = machine.in_turn({way: (lambda run=run: run(audio)) for way, (_, run) in runs.items()})
    rate = machine.ceilings()["bf16_tflops" if dtype == "bf16" else "float32_tflops"]
    flop = model_flop(separator.engine.model.config, samples, len(PROMPTS), BATCH)
    benchmark.group = f"{name}/{dtype}"
    benchmark.extra_info |= {
        "model": name,
        "dtype": dtype,
        "batch": BATCH,
        "seconds": SECONDS,
        "milliseconds": {way: round(value, 3) for way, value in found.items()},
        "speedup": {way: round(found[way] / found["native"], 2) for way in found if way != "native"},
        "gemm_share": round(flop / found["native"] / 1e9 / rate, 4),
        "times_real_time": round(BATCH * SECONDS * 1e3 / found["native"], 1),
        "difference": difference,
        "graphs": {"captured": len(separator.engine.graphs), "eager": list(separator.engine.graphs.reasons.values())},
    }
    benchmark.pedantic(lambda: (runs["native"][1](audio), torch.cuda.synchronize()), rounds=3, iterations=1)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("model", ["tuss-medium", "default"])
def bench_one_window(benchmark, monkeypatch, model, graphs):
    """Latency of one window of audio from the host and back."""
    monkeypatch.setenv("USSFAST_GRAPHS", str(int(graphs)))
    settings = {"device": "cuda", "dtype": "bf16"}
    separator = (
        Separator("default", PROMPTS, **settings)
        if model == "default"
        else Separator.from_preset(model, PROMPTS, **settings)
    )
    noise = np.random.default_rng(0).normal(0, 0.1, (1, round(SECONDS * separator.sample_rate))).astype(np.float32)
    for _ in range(4):
        separator.separate(noise, separator.sample_rate)
    benchmark.group = f"one window/{model}"
    benchmark.pedantic(lambda: separator.separate(noise, separator.sample_rate), rounds=20, iterations=1)


@pytest.mark.parametrize("graphs", [True, False], ids=["graphs", "eager"])
@pytest.mark.parametrize("streams", [1, 16])
def bench_stream(benchmark, monkeypatch, streams, graphs):
    """A hop of so many streams of the embedded model, from the host and back."""
    monkeypatch.setenv("USSFAST_GRAPHS", str(int(graphs)))
    separator = Separator("default", PROMPTS, device="cuda")
    hop = separator.engine.causal.config.stft.hop
    rng = np.random.default_rng(0)
    pool = separator.pool(streams, separator.sample_rate)
    names = [pool.join() for _ in range(streams)]
    times = []
    for _ in range(HOPS):
        chunks = {name: rng.normal(0, 0.1, (1, hop)).astype(np.float32) for name in names}
        start = time.perf_counter()
        pool.push(chunks)
        times.append(time.perf_counter() - start)
    steady = sorted(times[HOPS // 3 :])
    benchmark.group = f"{streams} streams"
    benchmark.extra_info |= {
        "p50_ms": round(statistics.median(steady) * 1e3, 3),
        "p99_ms": round(steady[int(0.99 * len(steady))] * 1e3, 3),
        "rtf": round(statistics.median(steady) * separator.sample_rate / hop, 4),
    }
    benchmark.pedantic(lambda: pool.push(chunks), rounds=5, iterations=1)
