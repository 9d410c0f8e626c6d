"""How much two workers of `ussfast batch` get done beside one.

    python bench/batch.py [--files 16] [--seconds 60] [--rounds 3] [--workers 2]

One worker and several take turns on the same files, in one Ray. Ratios are of the rates between the first and the last
file that became complete, without starting processes. Where others use the machine, too, the time of the CPU is what
counts: `cpu_per_second` says whether workers get in one another's way, `cpu_share` how much of their cores they had.
Writes bench/results/batch.json.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import soundfile

from ussfast import Separator
from ussfast.audio import OutputFormat
from ussfast.batch.cluster import started
from ussfast.batch.listing import Listing
from ussfast.batch.places import Place
from ussfast.batch.report import Report
from ussfast.batch.run import Pool, run
from ussfast.batch.task import Task

RESULT = Path(__file__).parent / "results" / "batch.json"
RATE, TEMPLATE, PROMPTS = 48000, "{name}/{label}.wav", ("speech", "sfxbg")
TICKS = os.sysconf("SC_CLK_TCK")


class Watch(threading.Thread):
    """CPU seconds of the workers, as long as they are there."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.seconds: dict[int, list[tuple[float, float]]] = {}
        self._end = threading.Event()
        self.start()

    def run(self) -> None:
        paths, looked = list[Path](), 0.0
        while not self._end.wait(0.2):
            if time.time() - looked > 3:  # at all processes, which itself takes time of the CPU
                paths, looked = [path for path in Path("/proc").glob("[0-9]*") if self._works(path)], time.time()
            for path in paths:
                try:
                    fields = (path / "stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                used = (int(fields[11]) + int(fields[12])) / TICKS
                self.seconds.setdefault(int(path.name), []).append((time.time(), used))

    @staticmethod
    def _works(path: Path) -> bool:
        try:
            return b"MapWorker" in (path / "cmdline").read_bytes()
        except OSError:
            return False

    def between(self, begin: float, end: float) -> float:
        """CPU seconds of all of them together."""
        self._end.set()
        self.join()
        spans = [[used for at, used in seen if begin <= at <= end] for seen in self.seconds.values()]
        return sum(span[-1] - span[0] for span in spans if span)


def measure(separator: Separator, folder: Path, seconds: float, workers: int) -> dict[str, float]:
    out = folder / "out"
    shutil.rmtree(out, ignore_errors=True)
    task = Task(str(out), PROMPTS, TEMPLATE, False, None, OutputFormat())
    listing = Listing([str(folder / "in")], [], Place(str(out)), TEMPLATE, OutputFormat())
    began, watch = time.time(), Watch()
    report = run(listing, task, lambda: separator, Report(folder / "report"), Pool(workers=workers, device="cpu"))
    assert not report.summary.failed and report.summary.done == report.summary.inputs, report.errors
    done = sorted(path.stat().st_mtime for path in out.rglob(".ussfast.*.json"))
    # What the others were at when the first file was complete began before: as much is left out at the end.
    counted = len(done) - workers
    span = done[-1] - done[0]
    cpu = watch.between(done[0], done[-1])
    return {
        "workers": workers, "wall": time.time() - began, "rate": counted * seconds / span,
        "cpu_per_second": cpu / (counted * seconds), "cpu_share": cpu / span / workers,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    runs: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "in").mkdir()
        rng = np.random.default_rng(0)
        for number in range(asked.files):
            noise = 0.1 * rng.standard_normal(round(asked.seconds * RATE)).astype(np.float32)
            soundfile.write(folder / f"in/{number:03}.wav", noise, RATE)
        separator = Separator("default", device="cpu")
        with started(None, asked.workers):
            for number in range(asked.rounds):
                for workers in (1, asked.workers)[:: 1 if number % 2 == 0 else -1]:
                    runs.append(measure(separator, folder, asked.seconds, workers))
                    print({key: round(value, 4) for key, value in runs[-1].items()}, file=sys.stderr, flush=True)

    def median(workers: int, what: str) -> float:
        return statistics.median(found[what] for found in runs if found["workers"] == workers)

    ratio = median(asked.workers, "rate") / median(1, "rate")
    in_cpu = asked.workers * median(1, "cpu_per_second") / median(asked.workers, "cpu_per_second")
    found = {
        "files": asked.files, "seconds": asked.seconds, "cores": os.cpu_count(), "load": os.getloadavg()[1],
        "ratio": round(ratio, 3), "ratio_in_cpu_time": round(in_cpu, 3), "runs": runs,
    }  # fmt: skip
    RESULT.write_text(json.dumps(found, indent=1) + "\n")
    print(f"{asked.workers} workers: {ratio:.2f} times one in time, {in_cpu:.2f} times in time of the CPU; {RESULT}")


if __name__ == "__main__":
    main()
