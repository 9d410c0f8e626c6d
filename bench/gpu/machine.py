"""The GPU that figures belong to, and the two rates that they are held against."""

import statistics
import subprocess
from functools import cache
from typing import Any

import torch


def gpu_info() -> dict[str, Any]:
    """Name, driver and versions, for the JSON files."""
    import triton

    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = "unknown"
    properties = torch.cuda.get_device_properties(0)
    return {
        "gpu": properties.name,
        "capability": f"{properties.major}.{properties.minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": driver,
        "cuda": torch.version.cuda,
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def milliseconds(call, rounds_ms: int = 200) -> float:
    """Median time of a call on the GPU, measured with events and a cache that is flushed before each."""
    from triton.testing import do_bench

    return do_bench(call, warmup=50, rep=rounds_ms, return_mode="median")


@cache
def ceilings() -> dict[str, float]:
    """What this GPU reaches: bf16 and float32 products in TFLOP/s (random data), a copy in TB/s, read and write."""
    size = 8192
    found = {}
    for name, dtype in (("bf16_tflops", torch.bfloat16), ("float32_tflops", torch.float32)):
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        found[name] = 2 * size**3 / milliseconds(lambda a=a, b=b: torch.mm(a, b)) / 1e9
    source = torch.randn(1 << 30, device="cuda")
    target = torch.empty_like(source)
    found["copy_tbps"] = 2 * source.nbytes / milliseconds(lambda: target.copy_(source)) / 1e9
    return {name: round(value, 3) for name, value in found.items()}


def in_turn(calls: dict[str, Any], rounds: int = 7) -> dict[str, float]:
    """Median milliseconds of each call, until the GPU is done, taken in turn; each has run before."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    for _ in range(rounds):
        for name, call in calls.items():
            torch.cuda.synchronize()
            begin.record()
            call()
            end.record()
            torch.cuda.synchronize()
            times[name].append(begin.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}
