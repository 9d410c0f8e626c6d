"""What only a fresh process shows: how long the first result takes, and how much memory a run needs.

    python bench/fresh.py tuss-medium native

Prints JSON, all for one window of --seconds: ready_seconds from the loaded checkpoint to the first result (compilation
and packing included), warm_seconds of the run after it, loaded_mib (resident memory with the checkpoint loaded) and
peak_mib (the highest above that during the warm run; what the first one has kept is part of it).
"""

import json
import os
import time
from pathlib import Path
from typing import Annotated

import candidates
import torch
import typer

from ussfast.profiling.profile import timed

STATUS = Path("/proc/self/status")


def mib(entry: str) -> float:
    """VmRSS or VmHWM (its highest so far) of this process."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{entry}:"))
    return int(line.split()[1]) / 1024


def main(
    model: Annotated[str, typer.Argument(help=", ".join(candidates.MODELS))],
    backend: Annotated[str, typer.Argument(help=", ".join(candidates.SETTINGS))],
    seconds: float = candidates.SECONDS,
) -> None:
    if reason := candidates.why_not(backend, model):
        raise typer.BadParameter(reason)
    torch.set_num_threads(int(os.environ.get("BENCH_THREADS") or torch.get_num_threads()))
    network = candidates.load(model)
    loaded = mib("VmRSS")
    start = time.perf_counter()
    _, run, _ = candidates.start(network, backend, seconds)
    run()
    ready = time.perf_counter() - start
    Path("/proc/self/clear_refs").write_text("5")  # forgets the highest so far
    warm = timed(run)
    found = {"ready_seconds": ready, "warm_seconds": warm, "loaded_mib": loaded, "peak_mib": mib("VmHWM") - loaded}
    print(json.dumps({name: round(value, 3) for name, value in found.items()}))


if __name__ == "__main__":
    typer.run(main)
